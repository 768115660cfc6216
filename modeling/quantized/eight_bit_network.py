"""Feed-forward networks in eight bits, whose hidden states need not be converted to a floating dtype."""

import torch
from torch import nn

from ..cpu.eligibility import is_recorded, is_unhooked, onednn_activation
from ..cpu.linear import fused_linear
from ..cpu.prepacked import pad_rows
from .eight_bit_graph import EightBitProduct
from .eight_bit_linear import EightBitLinear


def eight_bit_network(
    up: nn.Module, act: nn.Module, dropout: nn.Dropout, down: nn.Linear, hidden_states: torch.Tensor
) -> torch.Tensor | None:
    """Compute down(act(up(x))), from (..., D) to (..., D), or return None if the first layer is not in eight bits."""
    if not isinstance(up, EightBitLinear):
        return None
    if isinstance(down, EightBitLinear) and _can_chain(up, act, dropout, down):
        if up.takes_integers(hidden_states) and down.uniform_input is not None:
            return _chained(up, act, down, hidden_states)
        if is_recorded() and isinstance(down.graph_product, EightBitProduct):
            return _chained_in_graph(up, act, down.graph_product, hidden_states)
    return fused_linear(down, dropout(up(hidden_states, act)))


def _can_chain(up: EightBitLinear, act: nn.Module, dropout: nn.Dropout, down: EightBitLinear) -> bool:
    return (
        onednn_activation(act) is not None
        and up.outlier_channels is None
        and not (dropout.training and dropout.p)
        and all(is_unhooked(module) for module in (up, dropout, down))
    )


def _chained(up: EightBitLinear, act: nn.Module, down: EightBitLinear, hidden_states: torch.Tensor) -> torch.Tensor:
    """Let the product of the first layer quantize its output for the second one while it is in the cache.

    Channels with outliers are computed again without quantization.
    """
    rows = hidden_states.reshape(-1, up.in_features)
    integers = up.product(up.quantize(rows), rows.dtype, onednn_activation(act), following=down)
    output = down.product(integers, rows.dtype, None)
    if down.outlier_channels is not None:
        outliers = act(nn.functional.linear(pad_rows(rows), *up.rows_of(down.outlier_channels, rows.dtype)))
        down.add_outliers(output, outliers)
    return output[: len(rows)].view(*hidden_states.shape[:-1], down.out_features)


def _chained_in_graph(
    up: EightBitLinear, act: nn.Module, product: EightBitProduct, hidden_states: torch.Tensor
) -> torch.Tensor:
    """Use the output of the first layer for nothing but its quantization, so that runtimes can do the same."""
    rows = product.outlier_rows
    outliers = None if rows is None else act(nn.functional.linear(hidden_states, *rows))
    return product(up(hidden_states, act), outliers)
