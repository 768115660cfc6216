"""Attention over packed sequences on a CPU with windows: banded for sequences that are much longer than the window.

Shapes: T packed tokens, H heads, G heads of keys and values, C channels of a head, N blocks, W window.
"""

from typing import Any

import torch
from torch import nn

from .heads import QKV
from .masks import additive_mask, within_window
from .packed import Attention, split
from .per_length import EqualLengthAttention, attend_in_groups

# Number of queries in a block of a band. Each block attends to BLOCK + 2 W keys.
BLOCK = 64


class BandedAttention(EqualLengthAttention):
    """Like `EqualLengthAttention`, for models of which some layers have a window.

    Sequences longer than the keys that a block of queries can reach are computed together as a band.
    """

    @staticmethod
    def is_near(length: int, window: int | None) -> bool:
        """Return whether dense attention is faster than a band for a sequence of this length."""
        return window is None or length <= BLOCK + 2 * window

    def __call__(
        self, module: nn.Module, attention: Attention, qkv: QKV, window: int | None, *bias: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        """See `PackedAttention`."""
        if window is None:
            return super().__call__(module, attention, qkv, window, *bias, **kwargs)
        q, k, v = (x[0] for x in qkv)
        # Sequences are sorted by length, the shortest first.
        near = [run for run in self.runs if self.is_near(run[1], window)]
        tokens = sum(count * length for count, length in near)
        if tokens == len(q):
            return self.dense(module, attention, (q, k, v), near, window, *bias, **kwargs)[None]
        far = [length for length in self.lengths if not self.is_near(length, window)]
        band = self.once(("band", window, q.dtype), lambda: Band(far, window, q))
        if not tokens:
            return band(module, attention, (q, k, v), **kwargs)[None]
        first, rest = split((q, k, v), [tokens, len(q) - tokens])
        dense = self.dense(module, attention, first, near, window, *bias, **kwargs)
        return torch.cat([dense, band(module, attention, rest, **kwargs)])[None]

    def _mask(
        self, length: int, window: int | None, like: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Return the position bias or the mask of a window, (1, 1 or H, length, length); a model has not both."""
        # A window that covers the whole sequence hides nothing.
        if bias is not None or window is None or window >= length - 1:
            return super()._mask(length, window, like, bias)

        def make() -> torch.Tensor:
            index = torch.arange(length, device=like.device)
            return additive_mask(within_window(index[:, None], index, window), like.dtype)[None, None]

        mask: torch.Tensor = self.once(("mask", length, window, like.dtype), make)
        return mask


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
