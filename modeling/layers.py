"""The encoder layer: where its norms stand, and which feed-forward network it has."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from ..configuration.configuration_sequence_encoder import SequenceEncoderConfig
from .attention import SelfAttention
from .fused_linear import fused_linear, fused_linear_activation
from .norms import NORMS


class MLP(nn.Module):
    """act(xW₁ + b₁)W₂ + b₂ (Vaswani et al., 2017)."""

    def __init__(self, config: SequenceEncoderConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.act = ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(config.mlp_dropout)
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
        self.dropout = nn.Dropout(config.mlp_dropout)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(..., D) to (..., D)."""
        gate, up = fused_linear(self.gate_up_proj, hidden_states).chunk(2, dim=-1)
        return fused_linear(self.down_proj, self.dropout(self.act(gate) * up))


FEED_FORWARDS: dict[str, type[nn.Module]] = {"mlp": MLP, "glu": GatedMLP}


class EncoderLayer(GradientCheckpointingLayer):
    """The parts of a layer, with the same names wherever its norms stand."""

    def __init__(self, config: SequenceEncoderConfig, layer_idx: int) -> None:
        super().__init__()
        self.layer_type: str = (config.layer_types or [])[layer_idx]
        self.self_attn = SelfAttention(config, self.layer_type)
        self.attn_norm = NORMS[config.norm](config)
        self.mlp = FEED_FORWARDS[config.feed_forward](config)
        self.mlp_norm = NORMS[config.norm](config)
        self.dropout = nn.Dropout(config.hidden_dropout)


class PostNormLayer(EncoderLayer):
    """Each norm after its residual addition, as in `torch.nn.TransformerEncoderLayer`."""

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """(B, S, D) to (B, S, D); the keyword arguments go to the attention."""
        attended, _ = self.self_attn(hidden_states, **kwargs)
        hidden_states = self.attn_norm(hidden_states + self.dropout(attended))
        return self.mlp_norm(hidden_states + self.dropout(self.mlp(hidden_states)))


class PreNormLayer(EncoderLayer):
    """Each norm before its branch, the residual stream left as it is (Xiong et al., 2020)."""

    def __init__(self, config: SequenceEncoderConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        if layer_idx == 0 and config.embedding_norm and config.embedding_dim == config.hidden_size:
            # What comes in has just been normalised.
            self.attn_norm = nn.Identity()

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """(B, S, D) to (B, S, D); the keyword arguments go to the attention."""
        attended, _ = self.self_attn(self.attn_norm(hidden_states), **kwargs)
        hidden_states = hidden_states + self.dropout(attended)
        return hidden_states + self.dropout(self.mlp(self.mlp_norm(hidden_states)))


LAYERS: dict[str, type[EncoderLayer]] = {"post": PostNormLayer, "pre": PreNormLayer}
