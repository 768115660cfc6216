"""Multi-head self-attention through transformers' attention interface, for packed and padded batches."""

from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ...configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ..cpu.linear import fused_linear
from ..packing import select_tokens
from .disentangled import DistanceProjections
from .dispatch import flash_window
from .heads import QKV, Rotation, split_heads
from .packed import Attention, PackedAttention, repeat_heads


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute softmax(QKᵀ · scaling + mask) V.

    The mask is added and the softmax computed in float32, or in float64 if the scores are. Otherwise the sum of a score
    and the lowest number of the dtype could overflow to -inf, and a query that may not attend to any key would get NaN
    weights.

    Args:
        module: The attention module.
        query: (B, H, S, head_dim).
        key: (B, H, S, head_dim).
        value: (B, H, S, head_dim).
        attention_mask: Added to the scores, or bool and True where attention is allowed. Broadcasts to (B, H, S, S).
        scaling: The factor of the scores.
        dropout: The dropout probability of the weights.
        **kwargs: Not used.

    Returns:
        The output (B, S, H, head_dim) and the weights (B, H, S, S).
    """
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class SelfAttention(nn.Module):
    """Self-attention of one layer.

    The output of `qkv_proj` has, for each head of keys and values in turn, its queries, the key and the value.
    """

    # Transformers' attention functions read this.
    is_causal = False

    def __init__(self, config: SequenceEncoderConfig, layer_type: str) -> None:
        super().__init__()
        self.config = config
        self.head_dim = config.head_dim
        self.scaling = (config.score_terms * self.head_dim) ** -0.5
        self.dropout = config.attention_dropout
        self.window = config.sliding_window if layer_type == "sliding_attention" else None
        # Channels of the queries, the key and the value of each head of keys and values.
        self.group = (config.num_attention_heads // config.key_value_heads + 2, config.head_dim)
        channels = config.key_value_heads * self.group[0] * config.head_dim
        self.qkv_proj = nn.Linear(config.hidden_size, channels, bias=config.attention_bias)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.attention_bias)
        if config.position_bias == "disentangled":
            self.distances = DistanceProjections(config)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: Any = None,
        *bias: torch.Tensor,
        rotation: Rotation | None = None,
        attend: PackedAttention | None = None,
        needed: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Compute self-attention.

        Args:
            hidden_states: (B, S, D), or (1, T, D) for packed tokens.
            attention_mask: The mask of the padded batch, in the format of the attention implementation.
            *bias: What the position bias has computed for the batch, unless the mask contains it.
            rotation: Cosines and sines of rotary positions.
            attend: The attention over packed tokens; None for a padded batch.
            needed: (K,) indices of the packed tokens to return. They still attend to their whole sequence.
            **kwargs: Keyword arguments of the attention function.

        Returns:
            The output (B, S, D), (1, T, D), or (1, K, D) with `needed`; and the attention weights if the implementation
            returns them.
        """
        heads = fused_linear(self.qkv_proj, hidden_states).unflatten(-1, (-1, *self.group))
        implementation = self.config._attn_implementation
        if implementation == "sdpa" and kwargs.get("output_attentions"):
            implementation = "eager"  # Returns the weights, and takes the same masks.
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        kwargs["dropout"] = self.dropout if self.training else 0.0
        kwargs["scaling"] = self.scaling
        weights = None
        if attend is None:
            qkv = split_heads(heads, rotation)
            output, weights = padded_attention(self, attention, qkv, attention_mask, *bias, **kwargs)
        elif attend.lengths:
            output = attend.from_heads(self, attention, heads, rotation, self.window, *bias, **kwargs)
        else:
            output = split_heads(heads, None)[0]  # The whole batch is padding.
        return fused_linear(self.o_proj, select_tokens(output.flatten(2), needed)), weights


def padded_attention(
    module: SelfAttention, attention: Attention, qkv: QKV, mask: Any, *bias: torch.Tensor, **kwargs: Any
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Compute attention in a padded batch, and return its output and the weights if the implementation returns them.

    Args:
        module: The attention module.
        attention: The function of the attention implementation.
        qkv: Query (B, S, H, head_dim), and key and value, which may have fewer heads.
        mask: The mask, in the format of the attention implementation.
        *bias: See `SelfAttention.forward`.
        **kwargs: Keyword arguments of the function.
    """
    query, key, value = qkv
    if module.config.position_bias == "disentangled":
        attention = module.distances.around(attention, module, *bias)
    return attention(
        module,
        query.transpose(1, 2),
        repeat_heads(key, query, 2).transpose(1, 2),
        repeat_heads(value, query, 2).transpose(1, 2),
        mask,
        # For the flash functions. For the others, the mask contains the window.
        sliding_window=flash_window(module.window),
        **kwargs,
    )
