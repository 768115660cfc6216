"""Constraints on the tokens that unmasking may write: allowed tokens, banned tokens and banned sequences of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch


class Constraint(Protocol):
    """A condition on the text that unmasking writes.

    Attributes:
        joint: Whether a token that is written at one place changes which tokens are allowed at others. Such a
            constraint has to be asked again after each token.
    """

    joint: bool

    def forbid(self, row: torch.Tensor, positions: torch.Tensor, scores: torch.Tensor) -> None:
        """Set the scores of the tokens that are not allowed to minus infinity, in place.

        Args:
            row: The token ids of one text (L,), with the mask token where nothing is written yet.
            positions: Places of masks in the row (m,).
            scores: The logits at these places (m, V), in a floating dtype.
        """


class AllowedTokens:
    """Allows only some tokens at masks.

    Args:
        allowed_tokens: The ids that are allowed at each mask, or a mapping from positions in the row to the ids that
            are allowed there. Other positions are free.
        vocab_size: The number of tokens that the model predicts.

    Raises:
        ValueError: If there is no token, or a position or an id is out of range.
    """

    joint = False

    def __init__(self, allowed_tokens: Iterable[int] | Mapping[int, Iterable[int]], vocab_size: int) -> None:
        if not isinstance(allowed_tokens, Mapping):
            self._everywhere: torch.Tensor | None = self._forbidden("allowed_tokens", allowed_tokens, vocab_size)
            return
        if wrong := [place for place in allowed_tokens if not _is_natural_number(place)]:
            raise ValueError(f"The keys of allowed_tokens must be positions in the row, from 0; got {wrong[0]!r}.")
        self._everywhere = None
        self._at = {
            int(place): self._forbidden(f"allowed_tokens[{place}]", tokens, vocab_size)
            for place, tokens in allowed_tokens.items()
        }

    @staticmethod
    def _forbidden(name: str, tokens: Iterable[int], vocab_size: int) -> torch.Tensor:
        ids = _checked_token_ids(name, tokens, vocab_size)
        return torch.ones(vocab_size, dtype=torch.bool).index_fill(0, torch.tensor(ids), False)

    def forbid(self, row: torch.Tensor, positions: torch.Tensor, scores: torch.Tensor) -> None:
        """Set the scores of all other tokens to minus infinity, in place; see `Constraint.forbid`."""
        if self._everywhere is not None:
            scores.masked_fill_(self._everywhere.to(scores.device), -torch.inf)
            return
        for index, place in enumerate(positions.tolist()):
            if place in self._at:
                scores[index].masked_fill_(self._at[place].to(scores.device), -torch.inf)


class BannedTokens:
    """Bans single tokens at all masks, such as the special tokens.

    Args:
        banned_tokens: The ids.
        vocab_size: The number of tokens that the model predicts.

    Raises:
        ValueError: If there is no token, or an id is out of range.
    """

    joint = False

    def __init__(self, banned_tokens: Iterable[int], vocab_size: int) -> None:
        self._banned = torch.tensor(_checked_token_ids("banned_tokens", banned_tokens, vocab_size))

    def forbid(self, row: torch.Tensor, positions: torch.Tensor, scores: torch.Tensor) -> None:
        """Set the scores of the banned tokens to minus infinity, in place; see `Constraint.forbid`."""
        scores.index_fill_(1, self._banned.to(scores.device), -torch.inf)


class BannedWithin:
    """Bans tokens at the masks of a part of the row.

    Args:
        tokens: The ids of the tokens.
        start: The first place of that part.
        stop: The place after its last one.
        free: Places in it where the tokens are allowed nevertheless.
    """

    joint = False

    def __init__(self, tokens: Sequence[int] | torch.Tensor, start: int, stop: int, free: Sequence[int] = ()) -> None:
        self._tokens, self._start, self._stop = torch.as_tensor(tokens, dtype=torch.long), start, stop
        self._free = torch.tensor(free, dtype=torch.long)

    def forbid(self, row: torch.Tensor, positions: torch.Tensor, scores: torch.Tensor) -> None:
        """See `Constraint.forbid`."""
        inside = (positions >= self._start) & (positions < self._stop) & ~torch.isin(positions, self._free)
        scores[inside.nonzero().to(scores.device), self._tokens.to(scores.device)] = -torch.inf


class BannedWords:
    """Bans sequences of tokens.

    A sequence of one token is banned at all masks. In a longer sequence, a token is banned where all the others already
    stand around it, on either side: a text is not written in order. Sequences that the text contained before are left
    alone.

    Args:
        bad_words_ids: The sequences, as in `generate` of transformers. Most tokenizers write a word in another way at
            the start of a text than after a space; pass both.
        vocab_size: The number of tokens that the model predicts.
        fill_token: The token that leaves a place empty. Tokens around it become neighbours.

    Raises:
        ValueError: If there is no sequence, a sequence is empty, or an id is out of range.
    """

    def __init__(self, bad_words_ids: Sequence[Sequence[int]], vocab_size: int, fill_token: int | None = None) -> None:
        name = "bad_words_ids"
        if isinstance(bad_words_ids, str) or not isinstance(bad_words_ids, Sequence) or not bad_words_ids:
            raise ValueError(f"{name} must be a list of lists of token ids, got {bad_words_ids!r}.")
        words = {tuple(_checked_token_ids(f"{name}[{i}]", word, vocab_size)) for i, word in enumerate(bad_words_ids)}
        self._single = torch.tensor(sorted(word[0] for word in words if len(word) == 1), dtype=torch.int64)
        lengths = sorted({len(word) for word in words} - {1})
        self._longer = [torch.tensor(sorted(word for word in words if len(word) == length)) for length in lengths]
        self._fill_token = fill_token
        self.joint = bool(self._longer)

    def forbid(self, row: torch.Tensor, positions: torch.Tensor, scores: torch.Tensor) -> None:
        """Set the scores of tokens that would complete a sequence to minus infinity; see `Constraint.forbid`."""
        scores.index_fill_(1, self._single.to(scores.device), -torch.inf)
        index_of = torch.full_like(row, -1)
        index_of[positions] = torch.arange(len(positions), device=row.device)
        if self._fill_token is not None:
            kept = row != self._fill_token
            row, index_of = row[kept], index_of[kept]
        for words in self._longer:
            length = words.shape[1]
            if length > len(row):
                break
            words = words.to(row.device)
            equal = row.unfold(0, length, 1) == words[:, None]  # (words, windows, length)
            word, window = (equal.sum(-1) == length - 1).nonzero(as_tuple=True)
            place = equal[word, window].int().argmin(-1)
            index = index_of[window + place]
            masked = index >= 0
            scores[index[masked].to(scores.device), words[word, place][masked].to(scores.device)] = -torch.inf
            if self._fill_token is not None and length < len(row):
                emptied = _between_parts(row, words)
                index = index_of[emptied]
                scores[index[index >= 0].to(scores.device), self._fill_token] = -torch.inf


def _between_parts(row: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """Return the places in a row (L,) without whose tokens it would contain one of the words (W, length)."""
    length = words.shape[1]
    windows = row.unfold(0, length + 1, 1)
    places = []
    for inner in range(1, length):
        shorter = torch.cat([windows[:, :inner], windows[:, inner + 1 :]], 1)
        places.append((shorter == words[:, None]).all(-1).any(0).nonzero()[:, 0] + inner)
    return torch.cat(places)


def _checked_token_ids(name: str, tokens: Any, vocab_size: int) -> list[int]:
    """Return token ids as a list.

    Raises:
        ValueError: If there are none, or one is out of range.
    """
    ids = list(tokens) if isinstance(tokens, Iterable) and not isinstance(tokens, str) else []
    if not ids or not all(_is_natural_number(token) and token < vocab_size for token in ids):
        raise ValueError(f"{name} must be a list of token ids from 0 to {vocab_size - 1}, got {tokens!r}.")
    return [int(token) for token in ids]


def _is_natural_number(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool) and int(value) >= 0
