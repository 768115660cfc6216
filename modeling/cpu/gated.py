"""Gated feed-forward networks in training on a CPU, which keep fewer tensors for the backward pass.

Gates and what they multiply are two products, so that each is contiguous: activations and products of the halves of
one tensor take longer.

Shapes: D hidden, F intermediate channels.
"""

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

# Number of tokens to gate at once, which limits the memory of intermediate results. Smaller parts take longer.
_GATED_AT_ONCE = 4096

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
        biases = (None, None) if gate_up_bias is None else gate_up_bias.chunk(2)
        gate, up = (product(x, *half) for half in zip(gate_up.chunk(2), biases, strict=True))
        ctx.save_for_backward(x, gate_up, gate_up_bias, down, down_bias, gate, up)
        ctx.act = act
        gated = torch.empty_like(gate)
        parts = zip(*(t.split(_GATED_AT_ONCE) for t in (gate, up, gated)), strict=True)
        for gate_part, up_part, gated_part in parts:
            torch.mul(act(gate_part), up_part, out=gated_part)
        return product(gated, down, down_bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, gate_up, gate_up_bias, down, down_bias, gate, up = ctx.saved_tensors
        if needs_plain_gradients(gradient):
            inputs = (x, gate_up, gate_up_bias, down, down_bias)
            return *plain_gradients(partial(_network, ctx.act), inputs, ctx.needs_input_grad[:5], gradient), None
        needs_x, needs_gate_up, needs_gate_up_bias, needs_down, needs_down_bias, _ = ctx.needs_input_grad
        gated, of_gate = torch.empty_like(gate), torch.empty_like(gate)
        # First the gradient of what is gated, which the loop replaces.
        of_up = product(gradient, down.t())
        parts = zip(*(t.split(_GATED_AT_ONCE) for t in (gate, up, gated, of_gate, of_up)), strict=True)
        for gate_part, up_part, gated_part, of_gate_part, of_part in parts:
            with torch.enable_grad():
                leaf = gate_part.detach().requires_grad_()
                activated = ctx.act(leaf)
            torch.mul(activated.detach(), up_part, out=gated_part)
            of_gate_part.copy_(torch.autograd.grad(activated, leaf, of_part * up_part)[0])
            of_part.mul_(activated.detach())
        found: list[torch.Tensor | None] = [None] * 6
        if needs_x:
            gate_weight, up_weight = gate_up.chunk(2)
            found[0] = product(of_gate, gate_weight.t()).addmm_(of_up, up_weight)
        if needs_gate_up:
            found[1] = of_weight = torch.empty_like(gate_up)
            for of_half, into in zip((of_gate, of_up), of_weight.chunk(2), strict=True):
                torch.mm(of_half.t(), x, out=into)
        if needs_gate_up_bias:
            found[2] = torch.cat([of_gate.sum(0), of_up.sum(0)])
        if needs_down:
            found[3] = gradient.t() @ gated
        if needs_down_bias:
            found[4] = gradient.sum(0)
        return tuple(found)
