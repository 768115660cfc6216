"""Generation of text by unmasking."""
