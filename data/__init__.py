"""Turns texts into batches: corpora, windows, packs, streams, and batches with a token budget."""

from __future__ import annotations

from ..command_line.lazy_exports import lazy_exports

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
__getattr__ = lazy_exports(__name__, _MODULES)
