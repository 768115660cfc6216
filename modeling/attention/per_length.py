"""Attention over packed sequences on a CPU: dense among sequences of one length, in a band where a window is narrow.

Shapes: T packed tokens, H heads, C channels of a head, N blocks, W window.
"""

from typing import Any

import torch
from torch import nn

from ..packing import PackedBatch
from .masks import additive_mask, within_window
from .packed import QKV, AttentionFunction, PackedAttention, split

# Queries of a band that are taken together; they meet BLOCK + 2 W keys.
BLOCK = 64


class EqualLengthAttention(PackedAttention):
    """Dense attention over each run of sequences of one length: no padding, and no mask but a window's.

    Sequences with more tokens than a block of queries reaches through the window are taken together as a band.
    """

    def __init__(self, packed: PackedBatch) -> None:
        super().__init__(packed)
        self.runs = packed.runs()
        self.window_masks: dict[tuple[int, int, torch.dtype], torch.Tensor] = {}
        self.bands: dict[tuple[int, torch.dtype], Band] = {}

    def __call__(
        self, module: nn.Module, attention: AttentionFunction, qkv: QKV, window: int | None, **kwargs: Any
    ) -> torch.Tensor:
        """See `PackedAttention`."""
        q, k, v = (x[0] for x in qkv)
        # Sequences come shortest first.
        near = [run for run in self.runs if window is None or run[1] <= BLOCK + 2 * window]
        tokens = sum(count * length for count, length in near)
        if tokens == len(q):
            return self.dense(module, attention, (q, k, v), near, window, **kwargs)[None]
        assert window is not None
        if (window, q.dtype) not in self.bands:
            far = [length for length in self.lengths if length > BLOCK + 2 * window]
            self.bands[window, q.dtype] = Band(far, window, q)
        band = self.bands[window, q.dtype]
        if not tokens:
            return band(module, attention, (q, k, v), **kwargs)[None]
        first, rest = split((q, k, v), [tokens, len(q) - tokens])
        dense = self.dense(module, attention, first, near, window, **kwargs)
        return torch.cat([dense, band(module, attention, rest, **kwargs)])[None]

    def dense(
        self,
        module: nn.Module,
        attention: AttentionFunction,
        qkv: QKV,
        runs: list[tuple[int, int]],
        window: int | None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Attention among all tokens of each sequence, (T, H, C) each to (T, H, C)."""
        outputs = []
        parts = split(qkv, [count * length for count, length in runs])
        for (count, length), part in zip(runs, parts, strict=True):
            # A window that reaches from end to end hides nothing.
            mask = self._window_mask(length, window, qkv[0]) if window is not None and window < length - 1 else None
            rows = (x.unflatten(0, (count, length)).transpose(1, 2) for x in part)
            output, _ = attention(module, *rows, mask, **kwargs)
            outputs.append(output.reshape(count * length, *qkv[0].shape[1:]))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _window_mask(self, length: int, window: int, like: torch.Tensor) -> torch.Tensor:
        """(1, 1, length, length), to be added to the scores."""
        key = (length, window, like.dtype)
        if key not in self.window_masks:
            index = torch.arange(length, device=like.device)
            self.window_masks[key] = additive_mask(within_window(index[:, None], index, window), like.dtype)[None, None]
        return self.window_masks[key]


class Band:
    """Attention through a window, for sequences that are much longer: blocks of queries, each with the keys around it.

    The computation grows with T · (BLOCK + 2 W), and not with the square of the lengths (Beltagy et al., 2020). The
    blocks run over the sequences as they are packed, whatever their borders; one mask keeps both borders and window.
    """

    def __init__(self, lengths: list[int], window: int, like: torch.Tensor) -> None:
        self.tokens, self.window = sum(lengths), window
        self.blocks = -(-self.tokens // BLOCK)
        device = like.device
        missing = self.blocks * BLOCK - self.tokens
        # What fills the last block is of no sequence; neither are the keys around the ends, and those are never seen.
        sequence = torch.repeat_interleave(
            torch.arange(len(lengths), device=device), torch.tensor(lengths, device=device)
        )
        queries = nn.functional.pad(sequence, (0, missing), value=-1).view(self.blocks, BLOCK, 1)
        keys = nn.functional.pad(sequence, (window, window + missing), value=-2)
        keys = keys.unfold(0, BLOCK + 2 * window, BLOCK)[:, None]
        # The first of the keys around a block stands a window before its first query.
        places = torch.arange(BLOCK + 2 * window, device=device)
        near = within_window(places[:BLOCK, None] + window, places, window)
        self.mask = additive_mask((queries == keys) & near, like.dtype)[:, None]

    def __call__(self, module: nn.Module, attention: AttentionFunction, qkv: QKV, **kwargs: Any) -> torch.Tensor:
        """Of (T, H, C) each, to (T, H, C)."""
        q, k, v = qkv
        missing, window = self.blocks * BLOCK - self.tokens, self.window
        queries = nn.functional.pad(q, (0, 0, 0, 0, 0, missing)) if missing else q
        queries = queries.unflatten(0, (self.blocks, BLOCK)).transpose(1, 2)
        # Overlapping views, (N, H, C, BLOCK + 2 W): no key is copied for a second block.
        around = (
            nn.functional.pad(x, (0, 0, 0, 0, window, window + missing)).unfold(0, BLOCK + 2 * window, BLOCK)
            for x in (k, v)
        )
        output, _ = attention(module, queries, *(x.transpose(2, 3) for x in around), self.mask, **kwargs)
        return output.reshape(self.blocks * BLOCK, *q.shape[1:])[: self.tokens]
