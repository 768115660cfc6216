"""What a shared folder holds: its card and the files of sentence-transformers."""
