"""Packing: from padded rows to one run of real tokens and back, and where one sequence ends and the next begins.

Shapes: B batch, S padded length, T real tokens, N sequences, D channels. Sequences are packed shortest first, so that
those of one length stand side by side and attention can take them together, without a mask.
"""

from dataclasses import dataclass
from itertools import groupby

import torch


def sequence_starts(
    shape: tuple[int, int],
    device: torch.device,
    token_mask: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
    cu_seq_lens: torch.Tensor | None = None,
) -> torch.Tensor:
    """Marks the first token of every sequence, (B, S) bool.

    A sequence starts at the first real token of a row, at each offset of `cu_seq_lens` (N + 1, over the B * S tokens),
    or else wherever `position_ids` (B, S) do not grow from one real token to the next: that is how batches of
    `DataCollatorWithFlattening` tell their documents apart. `token_mask`, (B, S) bool, is False at padding.
    """
    index = torch.arange(shape[1], device=device).expand(shape)
    if cu_seq_lens is not None:
        # One place more than there are tokens: what starts at the end is an empty sequence.
        starts = torch.zeros(shape[0] * shape[1] + 1, dtype=torch.bool, device=device)
        starts = starts.index_fill(0, cu_seq_lens.to(device=device, dtype=torch.long), True)
        return starts[:-1].view(shape) | (index == 0)
    if token_mask is None:
        token_mask = torch.ones(shape, dtype=torch.bool, device=device)
    latest_token = torch.where(token_mask, index, -1).cummax(dim=1).values
    # Rolled, and not cut and joined: where lengths are symbols, torch.export would ask whether a cut is empty.
    previous = torch.where(index == 0, -1, latest_token.roll(1, dims=1))
    starts = previous < 0
    if position_ids is not None:
        starts = starts | (position_ids <= position_ids.gather(1, previous.clamp(min=0)))
    return starts & token_mask


def rows_hold_several(starts: torch.Tensor) -> bool:
    """Whether any row of `starts`, (B, S) bool, holds more than one sequence."""
    return bool((starts.sum(dim=1) > 1).any())


def select_tokens(packed: torch.Tensor, needed: torch.Tensor | None) -> torch.Tensor:
    """The needed tokens of (1, T, ...), all of them if `needed` is None."""
    return packed if needed is None else packed.index_select(1, needed.to(packed.device))


def offsets_from_starts(starts: torch.Tensor) -> torch.Tensor:
    """How far each token is from the start of its sequence, counted along its row: (B, S) bool to (B, S) long."""
    index = torch.arange(starts.shape[1], device=starts.device).expand(starts.shape)
    return index - torch.where(starts, index, 0).cummax(dim=1).values


def positions_from_documents(seq_idx: torch.Tensor) -> torch.Tensor:
    """Positions that restart where the number of the document changes, (B, S) to (B, S) long."""
    index = torch.arange(seq_idx.shape[1], device=seq_idx.device).expand(seq_idx.shape)
    return offsets_from_starts((index == 0) | (seq_idx != seq_idx.roll(1, dims=1)))


def positions_from_zero(position_ids: torch.Tensor, starts: torch.Tensor, offset: int) -> torch.Tensor:
    """Counts the positions of each sequence from 0 where its first one is `offset`; others are left as they are.

    Both arguments are (B, S); `starts` marks the first token of every sequence.
    """
    index = torch.arange(starts.shape[1], device=starts.device).expand(starts.shape)
    first = position_ids.gather(1, torch.where(starts, index, 0).cummax(dim=1).values)
    return position_ids - offset * (first == offset)


@dataclass
class PackedBatch:
    """The real tokens of a batch in one row, and the way back.

    Attributes:
        shape: (B, S) of the padded batch.
        indices: (T,) where each packed token stands in the flattened padded batch; None where nothing moves.
        position_ids: (1, T).
        cu_seqlens: (N + 1,) int32, where sequences start and end in the packed row.
        lengths: the N lengths on the host, ascending.
        several_per_row: whether a row of the padded batch holds several sequences.
    """

    shape: tuple[int, int]
    indices: torch.Tensor | None
    position_ids: torch.Tensor
    cu_seq_lens: torch.Tensor
    lengths: list[int]
    several_per_row: bool = False

    @classmethod
    def from_padded(
        cls,
        shape: tuple[int, int],
        device: torch.device,
        token_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cu_seq_lens: torch.Tensor | None = None,
    ) -> "PackedBatch":
        """Plans the packing of a batch; the arguments are those of `sequence_starts`."""
        batch, seq = shape
        if token_mask is not None and bool(token_mask.all()):
            token_mask = None
        starts, several = None, False
        if position_ids is not None or cu_seq_lens is not None:
            starts = sequence_starts(shape, device, token_mask, position_ids, cu_seq_lens)
            several = rows_hold_several(starts)
        if token_mask is None and not several:
            offsets = torch.arange(seq, device=device).expand(shape) if position_ids is None else position_ids
            cu_seq_lens = torch.arange(0, batch * seq + 1, seq, dtype=torch.int32, device=device)
            return cls(shape, None, offsets.reshape(1, -1), cu_seq_lens, [seq] * batch)

        if starts is None:
            starts = sequence_starts(shape, device, token_mask)
        tokens = (
            torch.arange(batch * seq, device=device)
            if token_mask is None
            else token_mask.reshape(-1).nonzero().squeeze(1)
        )
        first = starts.reshape(-1)[tokens].nonzero().squeeze(1)
        lengths = torch.diff(first, append=first.new_tensor([tokens.numel()]))
        lengths, order = torch.sort(lengths, stable=True)
        cu_seq_lens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
        shift = torch.repeat_interleave(first[order] - cu_seq_lens[:-1], lengths, output_size=tokens.numel())
        indices = tokens[torch.arange(tokens.numel(), device=device) + shift]
        offsets = offsets_from_starts(starts) if position_ids is None else position_ids
        return cls(shape, indices, offsets.reshape(-1)[indices][None], cu_seq_lens.int(), lengths.tolist(), several)

    @property
    def max_length(self) -> int:
        """Tokens in the longest sequence."""
        return self.lengths[-1] if self.lengths else 0

    def runs(self) -> list[tuple[int, int]]:
        """(number of sequences, their length) for each run of sequences of one length, in packed order."""
        return [(len(list(group)), length) for length, group in groupby(self.lengths)]

    def has_gaps(self) -> bool:
        """Whether the mask leaves out tokens inside a sequence, so that packed neighbours were no neighbours."""
        if self.indices is None:
            return False
        inside = torch.ones_like(self.indices, dtype=torch.bool)
        inside[self.cu_seq_lens[:-1].long()] = False
        return bool((inside[1:] & (self.indices.diff() != 1)).any())

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        """(B, S, ...) to (1, T, ...)."""
        flat = padded.reshape(-1, *padded.shape[2:])
        # Where a model is spread over devices, the plan stays on the first.
        return (flat if self.indices is None else flat.index_select(0, self.indices.to(flat.device)))[None]

    def unpack(self, packed: torch.Tensor, needed: torch.Tensor | None = None) -> torch.Tensor:
        """(1, T, ...) to (B, S, ...), zero where there was padding; of the `needed` tokens alone, zero elsewhere."""
        tail, indices = packed.shape[2:], self.indices
        if needed is not None:
            indices = needed if indices is None else indices[needed]
        if indices is None:
            return packed.reshape(*self.shape, *tail)
        flat = packed.new_zeros(self.shape[0] * self.shape[1], *tail)
        flat = flat.index_copy(0, indices.to(packed.device), packed[0])
        return flat.view(*self.shape, *tail)

    def places_of(self, needed: torch.Tensor) -> torch.Tensor | None:
        """Where those of (B, S) bool stand in the packed row, ascending; None if these are all its tokens."""
        chosen = self.pack(needed)[0]
        places = chosen.nonzero().squeeze(1)
        return None if len(places) == len(chosen) else places

    def to_rows(self) -> "PackedBatch":
        """The same tokens as one row for each sequence, (N, max_length): what attention with a mask needs."""
        lengths = self.cu_seq_lens.diff().long()
        shift = torch.arange(len(self.lengths), device=lengths.device) * self.max_length - self.cu_seq_lens[:-1]
        indices = torch.arange(sum(self.lengths), device=lengths.device) + torch.repeat_interleave(shift, lengths)
        shape = (len(self.lengths), self.max_length)
        return PackedBatch(shape, indices, self.position_ids, self.cu_seq_lens, self.lengths)
