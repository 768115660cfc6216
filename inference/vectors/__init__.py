"""Vectors of texts in the formats of sentence-transformers: dense, sparse and several for each text."""
