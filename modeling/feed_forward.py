"""The feed-forward axis: the network that each layer applies to every token by itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

from ..configuration.configuration_sequence_encoder import SequenceEncoderConfig
from .dropout import Dropout
from .eager_cpu import is_eager_on_cpu, is_untouched
from .fused_linear import fused_linear, fused_linear_activation, product

# Tokens that are gated together in training on a CPU: what is written on the way stays in the cache.
_TOKENS = 512


class MLP(nn.Module):
    """act(xW₁ + b₁)W₂ + b₂ (Vaswani et al., 2017)."""

    def __init__(self, config: SequenceEncoderConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.act = ACT2FN[config.hidden_act]
        self.dropout = Dropout(config.mlp_dropout)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(..., D) to (..., D)."""
        hidden_states = fused_linear_activation(self.up_proj, self.act, hidden_states)
        return fused_linear(self.down_proj, self.dropout(hidden_states))


class GatedMLP(nn.Module):
    """(act(xW) * xV)W₂, with W and V as the two halves of one projection (Shazeer, 2020)."""

    def __init__(self, config: SequenceEncoderConfig) -> None:
        super().__init__()
        self.gate_up_proj = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=config.mlp_bias)
        self.act = ACT2FN[config.hidden_act]
        self.dropout = Dropout(config.mlp_dropout)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(..., D) to (..., D)."""
        states = fused_linear(self.gate_up_proj, hidden_states)
        if self._recomputes(states):
            return _GatedProjection.apply(states, *self._parameters_in(states.dtype), self.act)
        gate, up = states.chunk(2, dim=-1)
        return fused_linear(self.down_proj, self.dropout(self.act(gate) * up))

    def _recomputes(self, states: torch.Tensor) -> bool:
        """Whether what is gated is computed again for the gradients, and not kept."""
        return (
            is_eager_on_cpu(states, self.down_proj.weight)
            and torch.is_grad_enabled()
            and not (self.training and self.dropout.p)
            and type(self.down_proj) is nn.Linear
            and states.dtype == self._compute_dtype()
            and all(is_untouched(module) for module in (self.act, self.dropout, self.down_proj))
        )

    def _compute_dtype(self) -> torch.dtype:
        """Of the product, were the layer called."""
        return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else self.down_proj.weight.dtype

    def _parameters_in(self, dtype: torch.dtype) -> list[torch.Tensor | None]:
        return [None if p is None else p.to(dtype) for p in (self.down_proj.weight, self.down_proj.bias)]


class _GatedProjection(torch.autograd.Function):
    """(act(gate) * up)Wᵀ + b, of which only gate and up are kept; x (..., 2 F), weight (D, F)."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, act: nn.Module
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.act = act
        gated = x.new_empty(*x.shape[:-1], weight.shape[1])
        for part, into in zip(*(t.flatten(0, -2).split(_TOKENS) for t in (x, gated)), strict=True):
            gate, up = part.chunk(2, dim=-1)
            torch.mul(act(gate), up, out=into)
        return product(gated, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled():
            # For gradients of gradients.
            gate, up = x.chunk(2, dim=-1)
            outputs = F.linear(ctx.act(gate) * up, weight, bias)
            needed = ctx.needs_input_grad[:3]
            inputs = [tensor for tensor, need in zip((x, weight, bias), needed, strict=True) if need]
            found = iter(torch.autograd.grad(outputs, inputs, gradient, create_graph=True))
            return *(next(found) if need else None for need in needed), None
        of_gated = product(gradient, weight.t())
        gated, of_x = torch.empty_like(of_gated), torch.empty_like(x)
        parts = (t.flatten(0, -2).split(_TOKENS) for t in (x, gated, of_gated, of_x))
        for part, into, of_into, of_part in zip(*parts, strict=True):
            gate, up = part.chunk(2, dim=-1)
            of_gate, of_up = of_part.chunk(2, dim=-1)
            with torch.enable_grad():
                gate = gate.detach().requires_grad_()
                activated = ctx.act(gate)
            torch.mul(activated.detach(), up, out=into)
            torch.mul(activated.detach(), of_into, out=of_up)
            of_gate.copy_(torch.autograd.grad(activated, gate, of_into * up)[0])
        rows = gradient.flatten(0, -2)
        of_weight = rows.t() @ gated.flatten(0, -2) if ctx.needs_input_grad[1] else None
        return of_x, of_weight, rows.sum(0) if ctx.needs_input_grad[2] else None, None


FEED_FORWARDS: dict[str, type[nn.Module]] = {"mlp": MLP, "glu": GatedMLP}
