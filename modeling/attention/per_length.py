"""Attention over packed sequences on a CPU: dense for sequences of equal length.

With grouped queries, the R query heads of a key head become further rows of queries, so that keys and values are not
copied.

Shapes: T packed tokens, H heads, G heads of keys and values, R = H / G, C channels of a head.
"""

from typing import Any

import torch
from torch import nn

from ..packing import PackedBatch
from .heads import QKV
from .packed import Attention, PackedAttention, repeat_heads, split


def attend_in_groups(
    attention: Attention, module: nn.Module, qkv: QKV, mask: torch.Tensor | None, **kwargs: Any
) -> torch.Tensor:
    """Compute attention from query (N, L, H, C), and key and value (N, K, G, C), to (N, L, H, C).

    Args:
        attention: The function of the attention implementation.
        module: Its first argument.
        qkv: Query, key and value.
        mask: An additive mask, (N or 1, 1 or H, L, K).
        **kwargs: The keyword arguments of the function.
    """
    query, key, value = (x.transpose(1, 2) for x in qkv)
    groups, repeats = key.shape[1], query.shape[1] // key.shape[1]
    if repeats == 1 or kwargs.get("is_causal"):
        # The function of a causal mask counts rows, and would take those of the second head for later tokens.
        return attention(module, query, repeat_heads(key, query, 1), repeat_heads(value, query, 1), mask, **kwargs)[0]
    length = query.shape[2]
    if mask is not None and mask.shape[1] == 1:
        mask = mask.expand(-1, repeats, -1, -1).flatten(1, 2)[:, None]
    elif mask is not None:
        mask = mask.unflatten(1, (groups, repeats)).flatten(2, 3)
    query = query.unflatten(1, (groups, repeats)).flatten(2, 3)
    output, _ = attention(module, query, key, value, mask, **kwargs)
    return output.unflatten(1, (repeats, length)).permute(0, 2, 3, 1, 4).flatten(2, 3)


class EqualLengthAttention(PackedAttention):
    """Dense attention over each run of sequences of equal length, without padding or a mask of it."""

    def __init__(self, packed: PackedBatch) -> None:
        super().__init__(packed)
        self.runs = packed.runs()

    def __call__(
        self, module: nn.Module, attention: Attention, qkv: QKV, window: int | None, *bias: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        """See `PackedAttention`. There is no window."""
        q, k, v = (x[0] for x in qkv)
        return self.dense(module, attention, (q, k, v), self.runs, None, *bias, **kwargs)[None]

    def dense(
        self,
        module: nn.Module,
        attention: Attention,
        qkv: QKV,
        runs: list[tuple[int, int]],
        window: int | None,
        bias: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Compute dense attention within each sequence, from (T, H, C) and (T, G, C) to (T, H, C)."""
        outputs = []
        parts = split(qkv, [count * length for count, length in runs])
        for (count, length), part in zip(runs, parts, strict=True):
            query, key, value = (x.unflatten(0, (count, length)) for x in part)
            mask = self._mask(length, window, query, bias)
            output = attend_in_groups(attention, module, (query, key, value), mask, **kwargs)
            outputs.append(output.reshape(count * length, *qkv[0].shape[1:]))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _mask(
        self, length: int, window: int | None, like: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Return the position bias, (1, H, length, length)."""
        return None if bias is None else bias[None, :, :length, :length].to(like.device)
