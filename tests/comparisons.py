"""Comparisons of tensors and of saved weights that several files of tests make."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file


def assert_same(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    """Fail unless tensors are equal up to `tolerance` times the largest expected value, or 1 if that is larger."""
    scale = max(1.0, float(expected.detach().abs().max()))
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * scale)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a saved model and of an adapter in a folder of it, but not those of checkpoints."""
    return {
        f"{file.relative_to(folder)}: {name}": weight
        for file in sorted(folder.rglob("*.safetensors"))
        if not file.parent.name.startswith("checkpoint-")
        for name, weight in load_file(file).items()
    }


def assert_same_weights(folder: Path, other: Path) -> None:
    """Fail unless two saved models have the same weights, bit for bit."""
    one, two = weights_of(folder), weights_of(other)
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []
