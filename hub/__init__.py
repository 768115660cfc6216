"""What a model tells others on the Hub: its card, and the files of sentence-transformers."""
