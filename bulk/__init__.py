"""Vectors and predictions for all texts of a corpus, written shard by shard."""

from __future__ import annotations

from ..command_line.lazy_exports import lazy_exports

_MODULES = {"embed_corpus": "commands", "predict_corpus": "commands"}
__all__ = [*_MODULES]
__getattr__ = lazy_exports(__name__, _MODULES, "embed", "pyarrow")
