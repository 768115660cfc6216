"""Attention in graphs whose other operations leave padding out."""

from typing import Any

import torch

from ..packing import RealTokens
from .heads import QKV
from .packed import Attention, PackedAttention
from .self_attention import SelfAttention, padded_attention


class GraphAttention:
    """Unpacks the real tokens of a batch for the attention, and packs its output, in place of a `PackedAttention`.

    Args:
        real: The real tokens.
        masks: The attention masks of the padded batch, by layer type.
    """

    # A graph does not know its lengths, but its row is never empty.
    lengths = (1,)
    from_heads = PackedAttention.from_heads

    def __init__(self, real: RealTokens, masks: dict[str, Any]) -> None:
        self.real, self.masks = real, masks

    def __call__(
        self,
        module: SelfAttention,
        attention: Attention,
        qkv: QKV,
        window: int | None,
        *bias: torch.Tensor,
        **kwargs: Any,
    ) -> torch.Tensor:
        """See `PackedAttention`."""
        query, key, value = (self.real.unpack(x) for x in qkv)
        mask = self.masks["full_attention" if window is None else "sliding_attention"]
        output, _ = padded_attention(module, attention, (query, key, value), mask, *bias, **kwargs)
        return self.real.pack(output)
