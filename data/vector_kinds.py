"""The names of what a text is read as, and of the kinds of vectors that it can have."""

from __future__ import annotations

QUERY, DOCUMENT = "query", "document"
# One vector, weights of the vocabulary, or one vector for each token.
DENSE, SPARSE, TOKEN = "dense", "sparse", "token"
