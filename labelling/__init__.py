"""Chooses the texts of a corpus that are most useful to label next, and keeps the labels that people give them."""

from __future__ import annotations

from ..command_line.lazy_exports import lazy_exports

_MODULES = {"choose_texts": "choosing"}
__all__ = [*_MODULES]
__getattr__ = lazy_exports(__name__, _MODULES, "embed", "pyarrow")
