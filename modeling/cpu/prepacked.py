"""Weights in the layout of oneDNN's kernels, for inference on a CPU.

In every product, oneDNN otherwise rearranges parts of a weight or reads them in the layout of `nn.Linear`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .eligibility import is_eager_on_cpu, is_unhooked
from .shapes import suits_onednn

# Packing a weight takes as long as what it saves for about this many tokens, times four.
_LEAST_TOKENS = 20_000
# oneDNN chooses the layout for a number of rows; that for large batches also serves small ones.
_ROWS = 2048
# The model rounds larger numbers of rows itself.
_PADDED_BELOW, _ROW_STEP = 256, 8


class PrepackedWeight:
    """The copy of a weight in oneDNN's layout, made for the first product and again after the weight has changed.

    A layer with a `prepacked` attribute of this class uses the copy in inference. Copies of the layer make their own.
    """

    def __init__(self) -> None:
        self._parts: dict[int, tuple[tuple[Any, ...], tuple[torch.Tensor, ...]]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "PrepackedWeight":
        return PrepackedWeight()

    def __reduce__(self) -> tuple[type["PrepackedWeight"], tuple[()]]:
        return PrepackedWeight, ()

    def parts(self, weight: torch.Tensor, number: int) -> tuple[torch.Tensor, ...]:
        """Return equal parts of a weight (out, in), each in oneDNN's layout."""
        state = (weight.data_ptr(), weight.dtype, weight.shape, 0 if weight.is_inference() else weight._version)
        found = self._parts.get(number)
        if found is None or found[0] != state:
            with torch.inference_mode():
                pack = torch.ops.mkldnn._reorder_linear_weight
                found = state, tuple(pack(part.contiguous(), _ROWS) for part in weight.chunk(number))
            # Another thread may do the same. Both copies are right.
            self._parts[number] = found
        return found[1]


def prepacked_parts(linear: nn.Linear, x: torch.Tensor, number: int = 1) -> tuple[torch.Tensor, ...] | None:
    """Return equal parts of the weight of a layer in oneDNN's layout, or None if the layer must use its weight.

    Args:
        linear: The layer.
        x: Its input, (..., in).
        number: The number of parts.
    """
    prepacked = linear.__dict__.get("prepacked")
    # Activation checkpointing runs a layer without gradients first, then with gradients, and expects the same result.
    if prepacked is None or torch.is_grad_enabled() or linear.training:
        return None
    if type(linear) is not nn.Linear or not is_unhooked(linear):
        return None
    weight = linear.weight
    if not is_eager_on_cpu(x, weight) or x.dtype != weight.dtype or torch.is_autocast_enabled("cpu"):
        return None
    # In float32, torch's own product of few rows is faster.
    return prepacked.parts(weight, number) if suits_onednn(x.numel() // x.shape[-1], x.dtype) else None


def pad_rows(x: torch.Tensor) -> torch.Tensor:
    """Pad the rows of (rows, in) to a multiple of eight if they are few, so that short texts need few kernels."""
    missing = -len(x) % _ROW_STEP
    return nn.functional.pad(x, (0, 0, 0, missing)) if missing and len(x) < _PADDED_BELOW else x


def prepack(modules: nn.Module, enabled: bool) -> None:
    """Let all linear layers use prepacked weights, or free those weights."""
    for linear in _linears_in(modules):
        if enabled:
            linear.__dict__["prepacked"] = PrepackedWeight()
        else:
            linear.__dict__.pop("prepacked", None)


def _linears_in(modules: nn.Module) -> Iterator[nn.Linear]:
    return (module for module in modules.modules() if type(module) is nn.Linear)


@contextmanager
def prepacked_for(modules: nn.Module, tokens: int) -> Iterator[None]:
    """Prepack the weights of all linear layers within a block that computes so many tokens, if it saves time.

    Layers that are prepacked already are left alone.
    """
    own: list[tuple[nn.Linear, PrepackedWeight]] = []
    if tokens >= _LEAST_TOKENS:
        own = [(linear, PrepackedWeight()) for linear in _linears_in(modules) if "prepacked" not in linear.__dict__]
    for linear, prepacked in own:
        linear.__dict__["prepacked"] = prepacked
    try:
        yield
    finally:
        for linear, prepacked in own:
            if linear.__dict__.get("prepacked") is prepacked:
                del linear.__dict__["prepacked"]
