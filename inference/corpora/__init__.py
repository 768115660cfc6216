"""Vectors and predictions for all texts of a corpus, written shard by shard."""
