"""Packs the real tokens of padded rows into one row, unpacks them, and finds the boundaries of sequences.

Sequences are packed in ascending order of length. Those of equal length are then adjacent, and attention can process
them together without a mask.

Shapes: B batch, S padded length, T real tokens, N sequences, D channels.
"""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from typing import Any

import torch
from transformers.utils.import_utils import is_tracing


def sequence_starts(
    shape: tuple[int, int],
    device: torch.device,
    token_mask: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
    cu_seq_lens: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mark the first token of every sequence.

    A sequence starts at the first real token of a row, and at each offset of `cu_seq_lens`. Without `cu_seq_lens`, a
    sequence also starts wherever `position_ids` do not increase from one real token to the next, which is how
    `DataCollatorWithFlattening` separates documents.

    Args:
        shape: (B, S).
        device: The device of the result.
        token_mask: (B, S) bool, False at padding.
        position_ids: (B, S).
        cu_seq_lens: (N + 1,) offsets into all B * S tokens.

    Returns:
        (B, S) bool.
    """
    index = torch.arange(shape[1], device=device).expand(shape)
    if cu_seq_lens is not None:
        # One element more than there are tokens, for empty sequences at the end.
        starts = torch.zeros(shape[0] * shape[1] + 1, dtype=torch.bool, device=device)
        starts = starts.index_fill(0, cu_seq_lens.to(device=device, dtype=torch.long), True)
        return starts[:-1].view(shape) | (index == 0)
    if token_mask is None:
        token_mask = torch.ones(shape, dtype=torch.bool, device=device)
    if position_ids is None:
        return token_mask & (token_mask.cumsum(dim=1) == 1)
    latest_token = _latest(index, token_mask, -1)
    # `roll` instead of slices and `cat`: with symbolic lengths, torch.export would need to know if a slice is empty.
    previous = torch.where(index == 0, -1, latest_token.roll(1, dims=1))
    starts = (previous < 0) | (position_ids <= position_ids.gather(1, previous.clamp(min=0)))
    return starts & token_mask


def _latest(index: torch.Tensor, marked: torch.Tensor, before: int) -> torch.Tensor:
    """Return the index of the latest marked token up to each token, a running maximum.

    ONNX has no such operation, so others replace it during tracing.

    Args:
        index: (B, S) the index of each token in its row.
        marked: (B, S) bool.
        before: The result before the first marked token of a row.

    Returns:
        (B, S) long.
    """
    marked_index = torch.where(marked, index, before)
    if not is_tracing(marked):
        return marked_index.cummax(dim=1).values
    count = marked.cumsum(dim=1)
    # The index of the n-th marked token in each row, after a place for `before`, to which all other tokens write it.
    indices = count.new_full((marked.shape[0], marked.shape[1] + 1), before)
    return indices.scatter(1, torch.where(marked, count, 0), marked_index).gather(1, count)


def has_several_per_row(starts: torch.Tensor) -> bool:
    """Return whether any row has more than one sequence, given the `starts` (B, S) of sequences."""
    return bool((starts.sum(dim=1) > 1).any())


def moved(value: Any, device: torch.device) -> Any:
    """Return a tensor on a device, without waiting if it is an accelerator; return anything else unchanged."""
    return value.to(device, non_blocking=device.type != "cpu") if isinstance(value, torch.Tensor) else value


def device_of(model: Any) -> torch.device:
    """Return the device of a model, or the CPU if weights are offloaded and therefore on the meta device."""
    return torch.device("cpu") if model.device.type == "meta" else model.device


def run_packed(model: Any, ids: list[list[int]], needed: torch.Tensor | bool = True) -> Any:
    """Return the outputs of an encoder for texts that are concatenated into one row.

    Args:
        model: The encoder.
        ids: The token ids of the texts, none of them empty.
        needed: See `SequenceEncoderModel.forward`.
    """
    row = moved(torch.tensor([token for text in ids for token in text])[None], device_of(model))
    # These stay on the host, where the model reads them.
    offsets = torch.tensor([0, *accumulate(len(text) for text in ids)], dtype=torch.int32)
    return model(input_ids=row, needed=needed, return_dict=True, cu_seq_lens_q=offsets, cu_seq_lens_k=offsets)


def select_tokens(packed: torch.Tensor, needed: torch.Tensor | None) -> torch.Tensor:
    """Return the tokens of (1, T, ...) with the indices `needed`, or all if it is None."""
    return packed if needed is None else packed.index_select(1, needed.to(packed.device))


def offsets_from_starts(starts: torch.Tensor) -> torch.Tensor:
    """Return the distance of each token from the start of its sequence in the row, (B, S) bool to (B, S) long."""
    index = torch.arange(starts.shape[1], device=starts.device).expand(starts.shape)
    return index - _latest(index, starts, 0)


def positions_from_documents(seq_idx: torch.Tensor) -> torch.Tensor:
    """Return positions that restart wherever the index of the document changes, (B, S) to (B, S) long."""
    index = torch.arange(seq_idx.shape[1], device=seq_idx.device).expand(seq_idx.shape)
    return offsets_from_starts((index == 0) | (seq_idx != seq_idx.roll(1, dims=1)))


def positions_from_zero(position_ids: torch.Tensor, starts: torch.Tensor, offset: int) -> torch.Tensor:
    """Shift the positions of sequences that start at `offset` so that they start at 0; keep all others.

    Args:
        position_ids: (B, S).
        starts: (B, S) bool, the first token of every sequence.
        offset: The `position_offset`.
    """
    index = torch.arange(starts.shape[1], device=starts.device).expand(starts.shape)
    first = position_ids.gather(1, _latest(index, starts, 0))
    return position_ids - offset * (first == offset)


# The longest sequence that `filled` adds. With a sliding window, attention to longer ones is not separate from others.
LONGEST_FILLER = 64


@dataclass
class PackedBatch:
    """A plan for packing the real tokens of a batch into one row, and for unpacking them.

    Attributes:
        shape: (B, S) of the padded batch.
        indices: (T,) index of each packed token in the flattened padded batch; None if packing keeps all tokens in
            place.
        position_ids: (1, T) positions of the packed tokens.
        cu_seq_lens: (N + 1,) int32 cumulative lengths of the sequences in the packed row.
        lengths: The N lengths on the host, ascending.
        several_per_row: Whether a row of the padded batch has several sequences.
        filler: The index of the first token that `filled` has added, and the number of such tokens. All attributes
            include them, and `unpack` drops them.
    """

    shape: tuple[int, int]
    indices: torch.Tensor | None
    position_ids: torch.Tensor
    cu_seq_lens: torch.Tensor
    lengths: list[int]
    several_per_row: bool = False
    filler: tuple[int, int] = (0, 0)

    @classmethod
    def from_padded(
        cls,
        shape: tuple[int, int],
        device: torch.device,
        token_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cu_seq_lens: torch.Tensor | None = None,
    ) -> "PackedBatch":
        """Plan the packing of a batch. For the arguments, see `sequence_starts`."""
        batch, seq = shape
        if token_mask is not None and bool(token_mask.all()):
            token_mask = None
        starts, several = None, False
        if position_ids is not None or cu_seq_lens is not None:
            starts = sequence_starts(shape, device, token_mask, position_ids, cu_seq_lens)
            several = has_several_per_row(starts)
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

    def filled(self, tokens: int) -> "PackedBatch":
        """Return a plan whose row has that many tokens; or this one, if its row is empty or long enough.

        Copies of the longest sequence's first tokens fill up the row, as sequences of their own. Copies have valid ids
        and positions.
        """
        total = sum(self.lengths)
        count = tokens - total
        if count <= 0 or not total:
            return self
        number = -(-count // min(self.max_length, LONGEST_FILLER))
        added = sorted(count // number + (k < count % number) for k in range(number))
        # Sequences stay in ascending order of length. The lengths that are added differ by at most 1.
        place = bisect_right(self.lengths, added[0])
        lengths = [*self.lengths[:place], *added, *self.lengths[place:]]
        first = sum(self.lengths[:place])
        device = self.position_ids.device
        row = torch.arange(total, device=device)
        longest = row[total - self.max_length :]
        row = torch.cat([row[:first], *(longest[:length] for length in added), row[first:]])
        return PackedBatch(
            self.shape,
            row if self.indices is None else self.indices[row],
            self.position_ids[:, row],
            torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device),
            lengths,
            self.several_per_row,
            (first, count),
        )

    def to(self, device: torch.device) -> "PackedBatch":
        """Return the same plan for tokens on another device, without waiting for the copies."""
        if device == self.position_ids.device:
            return self
        parts = {name: moved(getattr(self, name), device) for name in ("indices", "position_ids", "cu_seq_lens")}
        return replace(self, **parts)

    @property
    def max_length(self) -> int:
        """Number of tokens in the longest sequence."""
        return self.lengths[-1] if self.lengths else 0

    def runs(self) -> list[tuple[int, int]]:
        """Return (number of sequences, length) for each run of sequences of equal length, in packed order."""
        return [(len(list(group)), length) for length, group in groupby(self.lengths)]

    def has_gaps(self) -> bool:
        """Return whether the mask leaves out tokens inside a sequence, so that packing moves tokens together."""
        if self.indices is None:
            return False
        inside = torch.ones_like(self.indices, dtype=torch.bool)
        inside[self.cu_seq_lens[:-1].long()] = False
        return bool((inside[1:] & (self.indices.diff() != 1)).any())

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        """Pack (B, S, ...) into (1, T, ...)."""
        flat = padded.reshape(-1, *padded.shape[2:])
        # If a model is spread across devices, the plan stays on the first one.
        return (flat if self.indices is None else flat.index_select(0, self.indices.to(flat.device)))[None]

    def unpack(self, packed: torch.Tensor, needed: torch.Tensor | None = None) -> torch.Tensor:
        """Unpack (1, T, ...) to (B, S, ...), with zeros at padding.

        Args:
            packed: (1, T, ...), or (1, K, ...) with `needed`.
            needed: (K,) indices of the packed tokens that are given. All others become zeros.
        """
        tail, indices = packed.shape[2:], self.indices
        if needed is not None:
            indices = needed if indices is None else indices[needed]
        elif indices is not None and self.filler[1]:
            packed, indices = self._without_filler(packed, 1), self._without_filler(indices, 0)
        if indices is None:
            return packed.reshape(*self.shape, *tail)
        flat = packed.new_zeros(self.shape[0] * self.shape[1], *tail)
        flat = flat.index_copy(0, indices.to(packed.device), packed[0])
        return flat.view(*self.shape, *tail)

    def _without_filler(self, row: torch.Tensor, dim: int) -> torch.Tensor:
        first, count = self.filler
        before, _, after = row.split([first, count, row.shape[dim] - first - count], dim)
        return torch.cat([before, after], dim) if first else after

    def places_of(self, needed: torch.Tensor, round_up: Callable[[int], int]) -> torch.Tensor | None:
        """Return the packed indices of the tokens that (B, S) bool selects; None for all tokens.

        Args:
            needed: (B, S) bool.
            round_up: Takes the number of selected tokens and returns how many indices to return. Those of the first
                tokens that are not selected follow those of the selected ones.
        """
        chosen = self.pack(needed)[0]
        others = ~chosen
        first, count = self.filler
        if count:
            chosen[first : first + count] = others[first : first + count] = False
        places = chosen.nonzero().squeeze(1)
        extra = round_up(len(places)) - len(places)
        if extra:
            places = torch.cat([places, others.nonzero().squeeze(1)[:extra]])
        return None if len(places) + count == len(chosen) else places

    def to_rows(self) -> "PackedBatch":
        """Return a plan that unpacks the same tokens to one row per sequence, (N, max_length)."""
        lengths = self.cu_seq_lens.diff().long()
        shift = torch.arange(len(self.lengths), device=lengths.device) * self.max_length - self.cu_seq_lens[:-1]
        tokens = sum(self.lengths)
        indices = torch.arange(tokens, device=lengths.device)
        indices = indices + torch.repeat_interleave(shift, lengths, output_size=tokens)
        shape = (len(self.lengths), self.max_length)
        return PackedBatch(shape, indices, self.position_ids, self.cu_seq_lens, self.lengths)


class RealTokens:
    """A plan for packing the real tokens of a batch in a graph, which knows neither their number nor any length.

    The tokens stay in their order. The first token of the batch always counts as real, so that the row is never empty,
    which not all runtimes allow.

    Args:
        token_mask: (B, S) bool, False at padding.
    """

    def __init__(self, token_mask: torch.Tensor) -> None:
        kept = token_mask.flatten()
        kept = kept | (torch.arange(kept.shape[0], device=kept.device) == 0)
        self.shape = token_mask.shape
        self.indices = kept.nonzero().squeeze(1)
        # `torch.export` cannot know this.
        torch._check(self.indices.shape[0] > 0)
        self.places = kept.long().cumsum(0) - 1

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        """Pack (B, S, ...) into (1, T, ...)."""
        return padded.flatten(0, 1).index_select(0, self.indices)[None]

    def unpack(self, packed: torch.Tensor) -> torch.Tensor:
        """Unpack (1, T, ...) to (B, S, ...), with the values of the real token before it at padding."""
        return packed[0].index_select(0, self.places).unflatten(0, self.shape)
