"""From texts to batches: corpora, windows, packs, streams and batches with a token budget."""

from __future__ import annotations

import importlib
from typing import Any

# Imported lazily, because the command line parses its options without torch.
_MODULES = {
    "Docstring": "documentation",
    "PackedWindows": "packs",
    "TokenBudgetBatchSampler": "token_batches",
    "TokenBudgetCollator": "token_batches",
    "TokenBudgetDataset": "token_batches",
    "read_documentation": "documentation",
    "segment_windows": "windows",
}
__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    """Import a name of `__all__` from its module."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
