"""What only the installed package sequence-encoder has: weights in oneDNN's layout, and faster training on a CPU."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from ...modeling.attention.per_length import EqualLengthAttention

Dropout = nn.Dropout
# For models without layers that attend to windows.
BandedAttention = EqualLengthAttention
# Faster, but never needed.
GroupedAttention = EqualLengthAttention


class PrepackingMixin:
    """Prepacked weights need the package."""


class EarlierAnsweringMixin:
    """Folders of the first versions need the package."""


def never(*arguments: Any) -> bool:
    """Return False."""
    return False


def nothing(*arguments: Any) -> Any:
    """Return None."""


can_chunk = can_chunk_linear = never
recomputes_gated = never
needs_groups = never
is_prepacked = never
chunked_cross_entropy = chunked_linear_cross_entropy = nothing
gated_network = nothing
prepacked_product = prepacked_parts = nothing
packed_segments = padded_segments = nothing


def kept_output(linear: nn.Linear, x: torch.Tensor, compute: Callable[[nn.Linear, torch.Tensor], Any]) -> torch.Tensor:
    """Compute the output of a layer, and do not keep it."""
    output: torch.Tensor = compute(linear, x)
    return output


def pad_rows(x: torch.Tensor) -> torch.Tensor:
    """Return the rows as they are."""
    return x


def prepacked_for(modules: nn.Module, tokens: int) -> AbstractContextManager[None]:
    """Prepack no weights."""
    return nullcontext()


def warned_of_busy_neighbours(device: torch.device) -> AbstractContextManager[None]:
    """Measure nothing."""
    return nullcontext()
