"""The second half of a gated feed-forward network on a CPU, which keeps fewer tensors for the backward pass.

Shapes: F intermediate channels, D hidden.
"""

from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN

from .dropout import Dropout
from .eligibility import is_eager_on_cpu, is_unhooked
from .linear import product

# Number of tokens to gate at once when training on a CPU, so that intermediate results stay in the cache.
_GATED_AT_ONCE = 512

# Activations without weights, state or random numbers, so that computing them again gives the same result.
_RECOMPUTABLE = {
    type(ACT2FN[name]) for name in ("gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "silu", "relu2")
}


def recomputes_gated(states: torch.Tensor, act: nn.Module, dropout: nn.Module, down: nn.Linear) -> bool:
    """Return whether the backward pass recomputes the gated states instead of keeping them."""
    return (
        is_eager_on_cpu(states, down.weight)
        and torch.is_grad_enabled()
        and type(down) is nn.Linear
        and type(act) in _RECOMPUTABLE
        and type(dropout) is Dropout
        and not (dropout.training and dropout.p)
        and all(is_unhooked(module) for module in (act, dropout, down))
        # The dtype that the product has in `nn.Linear`.
        and states.dtype == (torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else down.weight.dtype)
        and (down.bias is None or down.bias.dtype == down.weight.dtype)
    )


def gated_projection(states: torch.Tensor, act: nn.Module, down: nn.Linear) -> torch.Tensor:
    """Return down(act(gate) * up), (..., D), for the two halves gate and up of `states`, (..., 2 F)."""
    weight, bias = (None if p is None else p.to(states.dtype) for p in (down.weight, down.bias))
    rows = _GatedProjection.apply(states.reshape(-1, states.shape[-1]), weight, bias, act)
    return rows.view(*states.shape[:-1], rows.shape[-1])


class _GatedProjection(torch.autograd.Function):
    """The function (act(gate) * up)Wᵀ + b, which keeps only gate and up; x (rows, 2 F), weight (D, F)."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, act: nn.Module
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.act = act
        gated = x.new_empty(len(x), weight.shape[1])
        for part, into in zip(x.split(_GATED_AT_ONCE), gated.split(_GATED_AT_ONCE), strict=True):
            gate, up = part.chunk(2, dim=-1)
            # Activations of rows that are not contiguous take twice as long.
            torch.mul(act(gate.contiguous()), up, out=into)
        return product(gated, weight, None if bias is None else bias.contiguous())

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        of_bias = gradient.sum(0) if needs_bias else None
        if (again := torch.is_grad_enabled()) or not is_eager_on_cpu(gradient):
            # For gradients of gradients and batched gradients.
            of_x, of_gated = None, gradient @ weight
            with torch.enable_grad():
                x = x if again else x.detach().requires_grad_(needs_x)
                gate, up = x.chunk(2, dim=-1)
                gated = ctx.act(gate) * up
            if needs_x:
                (of_x,) = torch.autograd.grad(gated, x, of_gated, create_graph=again)
            return of_x, gradient.t() @ gated if needs_weight else None, of_bias, None
        of_gated = product(gradient, weight.t())
        gated, of_x = torch.empty_like(of_gated), torch.empty_like(x)
        parts = (t.split(_GATED_AT_ONCE) for t in (x, gated, of_gated, of_x))
        for part, into, of_into, of_part in zip(*parts, strict=True):
            gate, up = part.chunk(2, dim=-1)
            of_gate, of_up = of_part.chunk(2, dim=-1)
            with torch.enable_grad():
                gate = gate.contiguous().detach().requires_grad_()
                activated = ctx.act(gate)
            torch.mul(activated.detach(), up, out=into)
            torch.mul(activated.detach(), of_into, out=of_up)
            of_gate.copy_(torch.autograd.grad(activated, gate, of_into.mul_(up))[0])
        return of_x, gradient.t() @ gated if needs_weight else None, of_bias, None
