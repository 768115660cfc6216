"""Linear layers on a CPU, where oneDNN fuses the product with the bias and the activation.

`nn.Linear` first writes the bias to all rows, and the activation reads and writes them again. oneDNN applies both while
a tile of the product is still in the cache. Its float32 product is also faster by itself, which helps training. The
operator is the one that torch.compile uses.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .eligibility import can_fuse, is_eager_on_cpu, is_recorded, onednn_activation, onednn_product
from .prepacked import is_prepacked, kept_output, pad_rows, prepacked_parts, prepacked_product
from .shapes import has_few_rows, has_onednn, suits_onednn


def fused_linear(linear: nn.Linear, hidden_states: torch.Tensor) -> torch.Tensor:
    """Compute linear(x), from (..., in) to (..., out)."""
    if _is_small(linear, hidden_states):
        return linear(hidden_states)
    if (prepacked := prepacked_product(linear, hidden_states, None)) is not None:
        return prepacked
    if not can_fuse(linear, hidden_states):
        return linear(hidden_states)
    rows = hidden_states.reshape(-1, hidden_states.shape[-1])
    if torch.is_grad_enabled():
        output = _Linear.apply(rows, linear.weight, linear.bias)
    else:
        output = _pointwise(rows, linear.weight, linear.bias, None)
    return output.view(*hidden_states.shape[:-1], len(linear.weight))


def linear_of_constant(linear: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """Compute linear(x) for an input that hardly ever changes. A layer with a prepacked weight keeps the output."""
    return kept_output(linear, x, fused_linear)


def fused_linear_activation(linear: nn.Linear, act: nn.Module, hidden_states: torch.Tensor) -> torch.Tensor:
    """Compute act(linear(x)), from (..., in) to (..., out)."""
    if _is_small(linear, hidden_states):
        return act(linear(hidden_states))
    if onednn_activation(act) and (prepacked := prepacked_product(linear, hidden_states, act)) is not None:
        return prepacked
    if not _can_fuse_activation(linear, act, hidden_states):
        return act(fused_linear(linear, hidden_states))
    rows = hidden_states.reshape(-1, hidden_states.shape[-1])
    return _pointwise(rows, linear.weight, linear.bias, act).view(*hidden_states.shape[:-1], len(linear.weight))


def can_fuse_gate(linear: nn.Linear, act: nn.Module, hidden_states: torch.Tensor) -> bool:
    """Return whether `fused_gate` can compute a gated layer."""
    if _is_small(linear, hidden_states):
        return False
    if onednn_activation(act) and prepacked_parts(linear, hidden_states, 2):
        return True
    if not _can_fuse_activation(linear, act, hidden_states):
        return False
    # Last, because compilers and exporters add a guard on the number of rows.
    return suits_onednn(hidden_states.numel() // hidden_states.shape[-1], hidden_states.dtype)


def fused_gate(linear: nn.Linear, act: nn.Module, hidden_states: torch.Tensor) -> torch.Tensor:
    """Compute act(gate) * up for the halves gate and up of linear(x), from (..., in) to (..., out / 2).

    oneDNN multiplies each tile of the second product by the first, so the halves are not written and read again.
    """
    rows = hidden_states.reshape(-1, hidden_states.shape[-1])
    biases = (None, None) if linear.bias is None else linear.bias.chunk(2)
    (of_gate, of_up), x = linear.weight.chunk(2), rows
    if parts := prepacked_parts(linear, hidden_states, 2):
        (of_gate, of_up), x = parts, pad_rows(rows)
    gate = onednn_product(x, of_gate, biases[0], act)
    gated = torch.ops.mkldnn._linear_pointwise.binary(x, gate, of_up, biases[1], "mul")[: len(rows)]
    return gated.view(*hidden_states.shape[:-1], gated.shape[-1])


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Compute xWᵀ + b without gradients.

    Args:
        x: (rows, in).
        weight: (out, in), of the same dtype.
        bias: (out,), of the same dtype.

    Returns:
        (rows, out).
    """
    return _pointwise(x, weight, bias, None) if has_onednn(x.dtype) else F.linear(x, weight, bias)


def _pointwise(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, act: nn.Module | None) -> torch.Tensor:
    """Compute act(xWᵀ + b) for x of shape (rows, in)."""
    if suits_onednn(len(x), x.dtype):
        return onednn_product(x, weight, bias, act)
    output = F.linear(x, weight, bias)
    return output if act is None else act(output)


def _is_small(linear: nn.Linear, hidden_states: torch.Tensor) -> bool:
    """Return whether torch should compute a product of few rows, for which the other checks take longer than it."""
    if hidden_states.dtype != torch.float32 and is_prepacked(linear):
        return False  # In float32, torch's product of few rows is faster even so.
    return (
        type(hidden_states) is torch.Tensor
        and not is_recorded()
        and has_few_rows(hidden_states.numel() // hidden_states.shape[-1], hidden_states.dtype)
    )


def _can_fuse_activation(linear: nn.Linear, act: nn.Module, hidden_states: torch.Tensor) -> bool:
    # Not in training: activation checkpointing runs a layer without gradients first, then with gradients, and both
    # passes must give the same result.
    fused = not torch.is_grad_enabled() and not linear.training and onednn_activation(act)
    return bool(fused) and can_fuse(linear, hidden_states)


class _Linear(torch.autograd.Function):
    """The function xWᵀ + b with gradients, for x of shape (rows, in)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        # Each is kept for the gradient of the other, so a frozen weight does not keep x.
        of_x, of_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if of_weight else None, weight if of_x else None)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        of_x = None
        if needs_x:
            # oneDNN's product does not support gradients of gradients or batched gradients.
            fused = not torch.is_grad_enabled() and is_eager_on_cpu(gradient)
            of_x = product(gradient, weight.t()) if fused else gradient @ weight
        return of_x, gradient.t() @ x if needs_weight else None, gradient.sum(0) if needs_bias else None
