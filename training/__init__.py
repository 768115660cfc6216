"""Training of encoders. Nothing here is needed to use a trained encoder."""

from __future__ import annotations

import importlib
from typing import Any

# Imported lazily, because the command line parses its options without torch.
_MODULES = {
    "HubTrainer": "hub_trainer",
    "Objectives": "pretraining.objective_arguments",
    "PretrainingCollator": "pretraining.objectives",
    "training_of": "hub_trainer",
}
__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    """Import a name of `__all__` from its module."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
