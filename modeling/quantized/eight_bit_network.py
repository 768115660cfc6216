"""A feed-forward network in eight bits whose hidden states are never converted to a floating dtype."""

import torch
from torch import nn

from ..cpu.eligibility import is_unhooked, onednn_activation
from .eight_bit_linear import EightBitLinear


def eight_bit_network(
    up: nn.Module, act: nn.Module, dropout: nn.Dropout, down: nn.Module, hidden_states: torch.Tensor
) -> torch.Tensor | None:
    """Compute down(act(up(x))), from (..., D) to (..., D), or return None if the layers must be computed one by one.

    The product of the first layer quantizes its output for the second one while it is in the cache. Channels with
    outliers are computed again without quantization.
    """
    if not isinstance(up, EightBitLinear) or not isinstance(down, EightBitLinear):
        return None
    fused = onednn_activation(act)
    chained = (
        fused is not None
        and up.outlier_channels is None
        and down.uniform_input is not None
        and up.takes_integers(hidden_states)
        and not (dropout.training and dropout.p)
        and all(is_unhooked(module) for module in (up, dropout, down))
    )
    if not chained:
        return None
    rows = hidden_states.reshape(-1, up.in_features)
    integers = up.product(up.quantize(rows), rows.dtype, fused, following=down)
    output = down.product(integers, rows.dtype, None)[: len(rows)]
    if down.outlier_channels is not None:
        outliers = act(nn.functional.linear(rows, *up.rows_of(down.outlier_channels, rows.dtype)))
        down.add_outliers(output, outliers)
    return output.view(*hidden_states.shape[:-1], down.out_features)
