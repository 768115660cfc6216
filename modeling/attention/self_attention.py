"""Multi-head self-attention through transformers' attention interface, for packed and for padded batches."""

from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ...configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ..cpu.linear import fused_linear
from ..packing import select_tokens
from .dispatch import flash_window
from .packed import PackedAttention
from .rotary import split_and_rotate


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
    """softmax(QKᵀ · scaling + mask) V, with the weights as second output.

    q, k, v are (B, H, S, head_dim), the mask is additive, or bool where it says what is seen, and broadcasts to
    (B, H, S, S); returns (B, S, H, head_dim) and (B, H, S, S).

    The mask is added and the softmax taken in float32, or in float64 where the scores are float64. Otherwise the sum of
    a score and the lowest number of the dtype can overflow to -inf, and a query that sees no key gets NaN weights.
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
    """Attention of one layer. `qkv_proj` gives, head by head, the query, the key and the value of that head."""

    # Read by transformers' attention functions.
    is_causal = False

    def __init__(self, config: SequenceEncoderConfig, layer_type: str) -> None:
        super().__init__()
        self.config = config
        self.head_dim = config.head_dim
        self.scaling = self.head_dim**-0.5
        self.dropout = config.attention_dropout
        self.window = config.sliding_window if layer_type == "sliding_attention" else None
        self.qkv_proj = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.attention_bias)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.attention_bias)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: Any = None,
        rotation: tuple[torch.Tensor, torch.Tensor] | None = None,
        attend: PackedAttention | None = None,
        needed: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """hidden_states (B, S, D), or (1, T, D) of packed tokens that `attend` knows; the output has the same shape.

        Where there is `needed`, the output is that of these packed tokens: each attends to all of its sequence.
        """
        qkv = fused_linear(self.qkv_proj, hidden_states).unflatten(-1, (-1, 3, self.head_dim))
        query, key, value = qkv.unbind(-2) if rotation is None else split_and_rotate(qkv, *rotation)

        implementation = self.config._attn_implementation
        if implementation == "sdpa" and kwargs.get("output_attentions"):
            implementation = "eager"  # which has the weights, and takes the same masks
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        kwargs["dropout"] = self.dropout if self.training else 0.0
        kwargs["scaling"] = self.scaling
        weights = None
        if attend is not None:
            output = value  # of no token, where the whole batch is padding
            if attend.lengths:
                output = attend(self, attention, (query, key, value), self.window, **kwargs)
        else:
            output, weights = attention(
                self,
                query.transpose(1, 2),
                key.transpose(1, 2),
                value.transpose(1, 2),
                attention_mask,
                # For the flash functions; the others find the window in the mask.
                sliding_window=flash_window(self.window),
                **kwargs,
            )
        return fused_linear(self.o_proj, select_tokens(output.flatten(2), needed)), weights
