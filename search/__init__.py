"""Search in the texts of a corpus: by meaning, by words, or both, with LanceDB."""

from __future__ import annotations

from ..command_line.lazy_exports import lazy_exports

_MODULES = {
    "Hit": "hit",
    "Reranker": "reranking",
    "SearchIndex": "search_index",
    "index_corpus": "indexing",
}
__all__ = [*_MODULES]
__getattr__ = lazy_exports(__name__, _MODULES, "search", "pyarrow")
