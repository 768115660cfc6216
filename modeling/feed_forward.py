"""The feed-forward axis: the network that each layer applies to every token by itself."""

from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN

from ..configuration.configuration_sequence_encoder import SequenceEncoderConfig
from .cpu.dropout import Dropout
from .cpu.eligibility import is_eager_on_cpu, is_unhooked
from .cpu.linear import fused_linear, fused_linear_activation, product

# Tokens that are gated together in training on a CPU: what is written on the way stays in the cache.
_GATED_AT_ONCE = 512

# Activations without weights, states or random numbers, which are the same when computed again.
_RECOMPUTABLE = {
    type(ACT2FN[name]) for name in ("gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "silu", "relu2")
}


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
        states, down = fused_linear(self.gate_up_proj, hidden_states), self.down_proj
        if self._recomputes(states):
            weight, bias = (None if p is None else p.to(states.dtype) for p in (down.weight, down.bias))
            rows = _GatedProjection.apply(states.reshape(-1, states.shape[-1]), weight, bias, self.act)
            return rows.view(hidden_states.shape)
        gate, up = states.chunk(2, dim=-1)
        return fused_linear(down, self.dropout(self.act(gate) * up))

    def _recomputes(self, states: torch.Tensor) -> bool:
        """Whether what is gated is computed again for the gradients, and not kept."""
        down, dropout = self.down_proj, self.dropout
        return (
            is_eager_on_cpu(states, down.weight)
            and torch.is_grad_enabled()
            and type(down) is nn.Linear
            and type(self.act) in _RECOMPUTABLE
            and type(dropout) is Dropout
            and not (dropout.training and dropout.p)
            and all(is_unhooked(module) for module in (self.act, dropout, down))
            # Of the product, were the layer called.
            and states.dtype
            == (torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else down.weight.dtype)
            and (down.bias is None or down.bias.dtype == down.weight.dtype)
        )


class _GatedProjection(torch.autograd.Function):
    """(act(gate) * up)Wᵀ + b, of which only gate and up are kept; x (rows, 2 F), weight (D, F)."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, act: nn.Module
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.act = act
        gated = x.new_empty(len(x), weight.shape[1])
        for part, into in zip(x.split(_GATED_AT_ONCE), gated.split(_GATED_AT_ONCE), strict=True):
            gate, up = part.chunk(2, dim=-1)
            torch.mul(act(gate), up, out=into)
        return product(gated, weight, None if bias is None else bias.contiguous())

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        of_bias = gradient.sum(0) if needs_bias else None
        if (again := torch.is_grad_enabled()) or not is_eager_on_cpu(gradient):
            # For gradients of gradients, and for many at once.
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
                gate = gate.detach().requires_grad_()
                activated = ctx.act(gate)
            torch.mul(activated.detach(), up, out=into)
            torch.mul(activated.detach(), of_into, out=of_up)
            of_gate.copy_(torch.autograd.grad(activated, gate, of_into * up)[0])
        return of_x, gradient.t() @ gated if needs_weight else None, of_bias, None


FEED_FORWARDS: dict[str, type[nn.Module]] = {"mlp": MLP, "glu": GatedMLP}
