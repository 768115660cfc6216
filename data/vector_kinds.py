"""Names: the roles of texts (query, document), and the kinds of vectors."""

from __future__ import annotations

QUERY, DOCUMENT = "query", "document"
# One vector, weights of the vocabulary, or one vector for each token.
DENSE, SPARSE, TOKEN = "dense", "sparse", "token"
