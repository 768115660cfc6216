"""Feed-forward networks, which each layer applies to every token separately."""

import torch
from torch import nn
from transformers.activations import ACT2FN

from ..configuration.configuration_sequence_encoder import SequenceEncoderConfig
from .cpu.dropout import Dropout
from .cpu.gated import gated_network, recomputes_gated
from .cpu.linear import can_fuse_gate, fused_gate, fused_linear, fused_linear_activation
from .quantized.eight_bit_network import eight_bit_network


class MLP(nn.Module):
    """The feed-forward network act(xW₁ + b₁)W₂ + b₂ (Vaswani et al., 2017)."""

    def __init__(self, config: SequenceEncoderConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.act = ACT2FN[config.hidden_act]
        self.dropout = Dropout(config.mlp_dropout)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.has_down_bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map (..., D) to (..., D)."""
        network = eight_bit_network(self.up_proj, self.act, self.dropout, self.down_proj, hidden_states)
        if network is not None:
            return network
        hidden_states = fused_linear_activation(self.up_proj, self.act, hidden_states)
        return fused_linear(self.down_proj, self.dropout(hidden_states))


class GatedMLP(nn.Module):
    """The gated network (act(xW) * xV)W₂, with W and V as the two halves of one projection (Shazeer, 2020)."""

    def __init__(self, config: SequenceEncoderConfig) -> None:
        super().__init__()
        self.gate_up_proj = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=config.mlp_bias)
        self.act = ACT2FN[config.hidden_act]
        self.dropout = Dropout(config.mlp_dropout)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.has_down_bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map (..., D) to (..., D)."""
        if can_fuse_gate(self.gate_up_proj, self.act, hidden_states):
            gated = fused_gate(self.gate_up_proj, self.act, hidden_states)
        elif recomputes_gated(self.gate_up_proj, self.act, self.dropout, self.down_proj, hidden_states):
            return gated_network(self.gate_up_proj, self.act, self.down_proj, hidden_states)
        else:
            gate, up = fused_linear(self.gate_up_proj, hidden_states).chunk(2, dim=-1)
            gated = self.act(gate) * up
        return fused_linear(self.down_proj, self.dropout(gated))


FEED_FORWARDS: dict[str, type[nn.Module]] = {"mlp": MLP, "glu": GatedMLP}
