"""Explanations of models' outputs, each with its faithfulness to the model."""

from __future__ import annotations

from ..command_line.lazy_exports import lazy_exports

_MODULES = {
    "AttentionMap": "attention_map",
    "Explanation": "explanation",
    "Faithfulness": "faithfulness",
    "Neighbour": "neighbours",
    "attention_of": "attention_map",
    "explain": "explaining",
    "nearest_examples": "neighbours",
    "save": "explanation",
}
__all__ = [*_MODULES]
__getattr__ = lazy_exports(__name__, _MODULES)
