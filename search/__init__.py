"""Search in the texts of a corpus: by meaning, by words, or both, with LanceDB."""
