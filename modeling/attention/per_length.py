"""Attention over packed sequences on a CPU: dense for sequences of equal length, banded for narrow windows.

With grouped queries, the R query heads of a key head become further rows of queries, so that keys and values are not
copied.

Shapes: T packed tokens, H heads, G heads of keys and values, R = H / G, C channels of a head, N blocks, W window.
"""

from typing import Any

import torch
from torch import nn

from ..packing import PackedBatch
from .masks import additive_mask, within_window
from .packed import QKV, Attention, PackedAttention, repeat_heads, split

# Number of queries in a block of a band. Each block attends to BLOCK + 2 W keys.
BLOCK = 64


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
    """Dense attention over each run of sequences of equal length, without padding or a mask of it.

    Sequences longer than the keys that a block of queries can reach are computed together as a band.
    """

    def __init__(self, packed: PackedBatch) -> None:
        super().__init__(packed)
        self.runs = packed.runs()
        self.window_masks: dict[tuple[int, int, torch.dtype], torch.Tensor] = {}
        self.bands: dict[tuple[int, torch.dtype], Band] = {}

    def __call__(
        self, module: nn.Module, attention: Attention, qkv: QKV, window: int | None, *bias: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        """See `PackedAttention`."""
        q, k, v = (x[0] for x in qkv)
        # Sequences are sorted by length, the shortest first.
        near = [run for run in self.runs if window is None or run[1] <= BLOCK + 2 * window]
        tokens = sum(count * length for count, length in near)
        if tokens == len(q):
            return self.dense(module, attention, (q, k, v), near, window, *bias, **kwargs)[None]
        assert window is not None
        if (window, q.dtype) not in self.bands:
            far = [length for length in self.lengths if length > BLOCK + 2 * window]
            self.bands[window, q.dtype] = Band(far, window, q)
        band = self.bands[window, q.dtype]
        if not tokens:
            return band(module, attention, (q, k, v), **kwargs)[None]
        first, rest = split((q, k, v), [tokens, len(q) - tokens])
        dense = self.dense(module, attention, first, near, window, *bias, **kwargs)
        return torch.cat([dense, band(module, attention, rest, **kwargs)])[None]

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
        """Return the position bias or the mask of a window, (1, 1 or H, length, length); a model has not both."""
        if bias is not None:
            return bias[None, :, :length, :length].to(like.device)
        # A window that covers the whole sequence hides nothing.
        if window is None or window >= length - 1:
            return None
        key = (length, window, like.dtype)
        if key not in self.window_masks:
            index = torch.arange(length, device=like.device)
            self.window_masks[key] = additive_mask(within_window(index[:, None], index, window), like.dtype)[None, None]
        return self.window_masks[key]


class Band:
    """Sliding-window attention for long sequences: each block of queries attends to the keys around it.

    The cost grows with T · (BLOCK + 2 W) instead of the square of the lengths (Beltagy et al., 2020). Blocks may cross
    the boundaries of packed sequences. A single mask enforces both the boundaries and the window.
    """

    def __init__(self, lengths: list[int], window: int, like: torch.Tensor) -> None:
        self.tokens, self.window = sum(lengths), window
        self.blocks = -(-self.tokens // BLOCK)
        device = like.device
        missing = self.blocks * BLOCK - self.tokens
        # Queries that fill the last block have sequence -1, and keys beyond both ends -2, so they match no sequence.
        sequence = torch.repeat_interleave(
            torch.arange(len(lengths), device=device), torch.tensor(lengths, device=device)
        )
        queries = nn.functional.pad(sequence, (0, missing), value=-1).view(self.blocks, BLOCK, 1)
        keys = nn.functional.pad(sequence, (window, window + missing), value=-2)
        keys = keys.unfold(0, BLOCK + 2 * window, BLOCK)[:, None]
        # The first key of a block is `window` tokens before its first query.
        places = torch.arange(BLOCK + 2 * window, device=device)
        near = within_window(places[:BLOCK, None] + window, places, window)
        self.mask = additive_mask((queries == keys) & near, like.dtype)[:, None]

    def __call__(self, module: nn.Module, attention: Attention, qkv: QKV, **kwargs: Any) -> torch.Tensor:
        """Compute attention from q (T, H, C), and k and v (T, G, C), to (T, H, C)."""
        q, k, v = qkv
        missing, window = self.blocks * BLOCK - self.tokens, self.window
        queries = nn.functional.pad(q, (0, 0, 0, 0, 0, missing)) if missing else q
        queries = queries.unflatten(0, (self.blocks, BLOCK))
        # Overlapping views, (N, G, C, BLOCK + 2 W), so that keys in several blocks are not copied.
        around = (
            nn.functional.pad(x, (0, 0, 0, 0, window, window + missing)).unfold(0, BLOCK + 2 * window, BLOCK)
            for x in (k, v)
        )
        key, value = (x.permute(0, 3, 1, 2) for x in around)
        output = attend_in_groups(attention, module, (queries, key, value), self.mask, **kwargs)
        return output.reshape(self.blocks * BLOCK, *q.shape[1:])[: self.tokens]
