"""Averages the weights of training runs with different seeds into one model (model soups, Wortsman et al., 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


@torch.no_grad()
def load_average(model: Any, folders: Sequence[Path]) -> None:
    """Set the weights of a model to the means of those of saved models.

    Args:
        model: The model.
        folders: The folders of models of the same class and size.
    """
    totals: dict[str, torch.Tensor] = {}
    for folder in folders:
        for name, weight in type(model).from_pretrained(folder, dtype=torch.float32).state_dict().items():
            totals[name] = totals[name] + weight.double() if name in totals else weight.double()
    model.load_state_dict({name: (total / len(folders)).float() for name, total in totals.items()})
