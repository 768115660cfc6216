"""Gated feed-forward networks in training on a CPU, which keep fewer tensors for the backward pass.

Gates and what they multiply are two products, so that each is contiguous: activations and products of the halves of
one tensor take longer.

Shapes: D hidden, F intermediate channels.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

from .dropout import Dropout
from .eligibility import is_eager_on_cpu, is_plain_linear, is_unhooked
from .linear import product
from .plain_gradients import needs_plain_gradients, plain_gradients
from .shapes import dtype_of_products

# Number of tokens to gate at once, so that intermediate results stay in the cache.
_GATED_AT_ONCE = 1024

# Activations without weights, state or random numbers, so that computing them again gives the same result.
_RECOMPUTABLE = {
    type(ACT2FN[name]) for name in ("gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "silu", "relu2")
}


def recomputes_gated(
    gate_up: nn.Linear, act: nn.Module, dropout: nn.Module, down: nn.Linear, hidden_states: torch.Tensor
) -> bool:
    """Return whether `gated_network` can compute a network and its gradients."""
    tensors = (hidden_states, *gate_up.parameters(), *down.parameters())
    return (
        # Activation checkpointing first runs a layer in training without gradients.
        (torch.is_grad_enabled() or down.training)
        and is_eager_on_cpu(*tensors)
        and is_plain_linear(gate_up, hidden_states.shape[-1])
        and is_plain_linear(down, len(gate_up.weight) // 2)
        and type(act) in _RECOMPUTABLE
        and type(dropout) is Dropout
        and not (dropout.training and dropout.p)
        and all(is_unhooked(module) for module in (act, dropout))
        and dtype_of_products(*tensors) is not None
    )


def gated_network(gate_up: nn.Linear, act: nn.Module, down: nn.Linear, hidden_states: torch.Tensor) -> torch.Tensor:
    """Return down(act(gate) * up), (..., D), for the halves gate and up of gate_up(hidden_states), (..., D)."""
    tensors = (hidden_states, gate_up.weight, gate_up.bias, down.weight, down.bias)
    dtype = dtype_of_products(*tensors)
    x, *weights = (None if tensor is None else tensor.to(dtype) for tensor in tensors)
    rows = _GatedNetwork.apply(x.reshape(-1, x.shape[-1]), *weights, act)
    return rows.view(*hidden_states.shape[:-1], rows.shape[-1])


def _halves(of_gate_up: torch.Tensor | None) -> Sequence[torch.Tensor | None]:
    return (None, None) if of_gate_up is None else of_gate_up.chunk(2)


def _network(
    act: nn.Module,
    x: torch.Tensor,
    gate_up: torch.Tensor,
    gate_up_bias: torch.Tensor | None,
    down: torch.Tensor,
    down_bias: torch.Tensor | None,
) -> torch.Tensor:
    gate, up = F.linear(x, gate_up, gate_up_bias).chunk(2, dim=-1)
    return F.linear(act(gate) * up, down, down_bias)


class _GatedNetwork(torch.autograd.Function):
    """The function (act(xWᵀ + b) * (xVᵀ + c))Uᵀ + d; x (rows, D), W and V in one tensor (2 F, D), U (D, F)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        gate_up: torch.Tensor,
        gate_up_bias: torch.Tensor | None,
        down: torch.Tensor,
        down_bias: torch.Tensor | None,
        act: nn.Module,
    ) -> torch.Tensor:
        gate, up = (product(x, *half) for half in zip(gate_up.chunk(2), _halves(gate_up_bias), strict=True))
        ctx.save_for_backward(x, gate_up, gate_up_bias, down, down_bias, gate, up)
        ctx.act = act
        gated = torch.empty_like(gate)
        for of_gate, of_up, into in zip(*(t.split(_GATED_AT_ONCE) for t in (gate, up, gated)), strict=True):
            torch.mul(act(of_gate), of_up, out=into)
        return product(gated, down, down_bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, gate_up, gate_up_bias, down, down_bias, gate, up = ctx.saved_tensors
        if needs_plain_gradients(gradient):
            inputs = (x, gate_up, gate_up_bias, down, down_bias)
            return *plain_gradients(partial(_network, ctx.act), inputs, ctx.needs_input_grad[:5], gradient), None
        of_x, of_gate_up, of_gate_up_bias, of_down, of_down_bias, _ = ctx.needs_input_grad
        of_up = product(gradient, down.t())
        gated, of_gate = torch.empty_like(gate), torch.empty_like(gate)
        for a, b, c, d, e in zip(*(t.split(_GATED_AT_ONCE) for t in (gate, up, gated, of_gate, of_up)), strict=True):
            with torch.enable_grad():
                part = a.detach().requires_grad_()
                activated = ctx.act(part)
            torch.mul(activated.detach(), b, out=c)
            d.copy_(torch.autograd.grad(activated, part, e * b)[0])
            e.mul_(activated.detach())
        found: list[torch.Tensor | None] = [None] * 6
        if of_x:
            of_gates, of_ups = gate_up.chunk(2)
            found[0] = product(of_gate, of_gates.t()).addmm_(of_up, of_ups)
        if of_gate_up:
            found[1] = of_weight = torch.empty_like(gate_up)
            for part, into in zip((of_gate, of_up), of_weight.chunk(2), strict=True):
                torch.mm(part.t(), x, out=into)
        if of_gate_up_bias:
            found[2] = torch.cat([of_gate.sum(0), of_up.sum(0)])
        if of_down:
            found[3] = gradient.t() @ gated
        if of_down_bias:
            found[4] = gradient.sum(0)
        return tuple(found)
