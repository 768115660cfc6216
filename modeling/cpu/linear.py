"""Linear layers on a CPU: bias and activation in the same pass as the product, which oneDNN computes.

torch's own product first writes the bias to all rows, and the activation reads and writes them again; oneDNN applies
both while a tile of the product is still in the cache. In float32 its product itself is faster too, which counts in
training. The operator is what torch's compiler uses.

oneDNN, and torch's layer over it, keep a compiled kernel of about half a megabyte for every shape that they have seen,
up to a thousand each. Texts of random lengths make a new number of rows in every batch, so a product in float32 is
computed with some rows of zeros more: kernels are compiled for few numbers of rows.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

from .eligibility import is_eager_on_cpu, is_unhooked

# By the class of the activation: the names that oneDNN has for it, and for the way to compute it. Not ReLU, which makes
# zero of NaN there, and would hide a model that diverged.
_ACTIVATIONS = {
    type(ACT2FN["gelu"]): ("gelu", "none"),
    type(ACT2FN["gelu_new"]): ("gelu", "tanh"),
    type(ACT2FN["gelu_pytorch_tanh"]): ("gelu", "tanh"),
    type(ACT2FN["silu"]): ("swish", ""),
}
# From so many rows on, a product in float32 is oneDNN's; torch's own keeps no kernels, and is as fast for fewer.
_FEWEST_ROWS = 256


def fused_linear(linear: nn.Linear, hidden_states: torch.Tensor) -> torch.Tensor:
    """linear(x); (..., in) to (..., out)."""
    if not can_fuse(linear, hidden_states):
        return linear(hidden_states)
    rows = hidden_states.reshape(-1, hidden_states.shape[-1])
    if torch.is_grad_enabled():
        output = _Linear.apply(rows, linear.weight, linear.bias)
    else:
        output = _pointwise(rows, linear.weight, linear.bias, None)
    return output.view(*hidden_states.shape[:-1], len(linear.weight))


def fused_linear_activation(linear: nn.Linear, act: nn.Module, hidden_states: torch.Tensor) -> torch.Tensor:
    """act(linear(x)); (..., in) to (..., out)."""
    # Not in training: the first pass of a checkpointed layer has no gradients either, and the second must be the same.
    fused = type(act) in _ACTIVATIONS and is_unhooked(act) and not torch.is_grad_enabled() and not linear.training
    if not fused or not can_fuse(linear, hidden_states):
        return act(fused_linear(linear, hidden_states))
    rows = hidden_states.reshape(-1, hidden_states.shape[-1])
    return _pointwise(rows, linear.weight, linear.bias, act).view(*hidden_states.shape[:-1], len(linear.weight))


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """xWᵀ + b without gradients, all of one dtype; x (rows, in), weight (out, in), bias (out,), to (rows, out)."""
    if not _has_onednn(x.dtype):
        return F.linear(x, weight, bias)
    output = _pointwise(x, weight, bias, None)
    # Autograd allows no change of a view in place, and would keep the rows of zeros.
    return output if output.untyped_storage().nbytes() == output.nbytes else output.clone()


def _pointwise(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, act: nn.Module | None) -> torch.Tensor:
    """act(xWᵀ + b); x (rows, in)."""
    rows = len(x)
    # In bfloat16, torch's own product is oneDNN's as well and keeps as many kernels: rounding would save nothing.
    if x.dtype == torch.float32:
        if rows < _FEWEST_ROWS:
            output = F.linear(x, weight, bias)
            return output if act is None else act(output)
        x = F.pad(x, (0, 0, 0, rounded(rows) - rows))
    name, algorithm = ("none", "") if act is None else _ACTIVATIONS[type(act)]
    output = torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, [], algorithm)
    return output if len(output) == rows else output[:rows]


def rounded(rows: int) -> int:
    """The next number of rows, of eight for each doubling and none closer than 64, that kernels are compiled for."""
    step = max(64, 1 << max(0, (rows - 1).bit_length() - 4))
    return -(-rows // step) * step


def can_fuse(linear: nn.Linear, hidden_states: torch.Tensor) -> bool:
    """Whether a layer can be computed here without its being called."""
    weight, bias = linear.weight, linear.bias
    parameters = (weight,) if bias is None else (weight, bias)
    return bool(
        is_eager_on_cpu(hidden_states, *parameters)
        and type(linear) is nn.Linear
        and is_unhooked(linear)
        and all(parameter.dtype == hidden_states.dtype for parameter in parameters)
        and _has_onednn(weight.dtype)
        and not torch.is_autocast_enabled("cpu")
        and weight.dim() == 2
        and weight.shape[1] == hidden_states.shape[-1]
        # oneDNN does not look at the strides of a bias.
        and (bias is None or (bias.shape == weight.shape[:1] and bias.is_contiguous()))
    )


def _has_onednn(dtype: torch.dtype) -> bool:
    known = dtype == torch.float32 or (dtype == torch.bfloat16 and _HAS_BFLOAT16)
    return bool(known and torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled)


class _Linear(torch.autograd.Function):
    """xWᵀ + b with gradients; x (rows, in)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        # Each is kept for the gradient of the other: frozen weights need no x.
        of_x, of_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if of_weight else None, weight if of_x else None)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        of_x = None
        if needs_x:
            # oneDNN's knows nothing of gradients of gradients, or of many at once.
            fused = not torch.is_grad_enabled() and is_eager_on_cpu(gradient)
            of_x = product(gradient, weight.t()) if fused else gradient @ weight
        return of_x, gradient.t() @ x if needs_weight else None, gradient.sum(0) if needs_bias else None


_HAS_BFLOAT16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
