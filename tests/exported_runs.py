"""Records what exported models run."""

from __future__ import annotations

from typing import Any

import pytest
import torch


def record_shapes(exported: Any, monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Return a list that receives the shape of each batch that an exported model runs.

    Args:
        exported: An `ExportedGraph`.
        monkeypatch: The fixture of pytest.
    """
    graph = exported.exported
    shapes: list[torch.Size] = []

    def run(**inputs: torch.Tensor) -> Any:
        shapes.append(inputs["input_ids"].shape)
        return graph(**inputs)

    monkeypatch.setattr(exported, "exported", run)
    return shapes
