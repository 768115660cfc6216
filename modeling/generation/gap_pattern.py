"""The constraint that the text of a gap matches a regular expression, in whatever order its tokens are written."""

from __future__ import annotations

import torch
from transformers import PreTrainedTokenizerBase

from .gap_automaton import filled_automaton, gap_automaton
from .token_texts import token_texts

# Errors name the possible lengths up to this one.
_MAX_LISTED_LENGTH = 64


class GapPattern:
    r"""Allows only texts of a gap that a regular expression matches in full.

    The text of the gap is what `tokenizer.decode` returns for its tokens, with `clean_up_tokenization_spaces=False`,
    without the fill tokens, and without one space at the start of the first token. A token that only continues a word,
    such as `##s`, is never the first one. The text never has other white space at its ends. Special tokens are not
    allowed. Characters that are split over several tokens are not allowed where they would need too many states, as
    with large repetitions of Unicode classes.

    Args:
        pattern: The expression, in the syntax of Rust's regex crate: that of `re`, without look-around,
            back-references, `\b`, `^` and `$`. Nested counted repetitions of Unicode classes, such as
            `(\w{1,40} ?){1,10}`, can take very long to compile; `[a-z]` takes less time than `\w`.
        tokenizer: The tokenizer of the model.
        start: The position of the gap's first token in the row.
        stop: The position after its last token.
        fill_token: The token that fills the rest of the gap after the text has ended; by default, the text has to take
            up the gap.
        least: The number of tokens at the start of the gap that are not fill tokens.

    Raises:
        ImportError: If outlines-core is not installed.
        ValueError: If the gap is not in order, a token is out of range, the pattern cannot be compiled, or no text of
            this number of tokens matches it.
    """

    joint = True

    def __init__(
        self,
        pattern: str,
        tokenizer: PreTrainedTokenizerBase,
        start: int,
        stop: int,
        fill_token: int | None = None,
        least: int = 0,
    ) -> None:
        if not 0 <= start < stop:
            raise ValueError(f"A gap must have 0 <= start < stop, got start={start}, stop={stop}.")
        self._start, self._stop, self._mask = start, stop, tokenizer.mask_token_id
        self._pattern = pattern
        texts = token_texts(tokenizer)
        if fill_token is not None and not 0 <= fill_token < texts.vocab_size:
            raise ValueError(f"fill_token must be from 0 to {texts.vocab_size - 1}, got {fill_token}.")
        automaton = gap_automaton(pattern, texts)
        self._automaton = automaton if fill_token is None else filled_automaton(automaton, fill_token)
        self._least = least
        possible = self._automaton.lengths(max(_MAX_LISTED_LENGTH, stop - start), least)
        if stop - start not in possible:
            raise ValueError(
                f"No text of {stop - start} tokens matches the pattern {pattern!r} without white space at its ends; "
                f"{_listed_lengths(possible)}."
            )

    def forbid(self, row: torch.Tensor, positions: torch.Tensor, scores: torch.Tensor) -> None:
        """Set the scores of tokens that rule out a match to minus infinity, in place; see `Constraint.forbid`.

        Raises:
            ValueError: If the tokens that are written in the gap rule out a match.
        """
        written = row[self._start : self._stop].tolist()
        try:
            tokens = [None if token == self._mask else token for token in written]
            allowed = self._automaton.allowed(tokens, self._least)
        except ValueError as error:
            raise ValueError(
                f"The gap from {self._start} to {self._stop} cannot match the pattern {self._pattern!r}: {error}."
            ) from error
        for index, place in enumerate(positions.tolist()):
            if place - self._start in allowed:
                here = torch.from_numpy(allowed[place - self._start]).to(scores.device)
                # A model can have more scores than the tokenizer has tokens.
                scores[index, : len(here)].masked_fill_(~here[: scores.shape[1]], -torch.inf)
                scores[index, len(here) :] = -torch.inf


def possible_gap_lengths(pattern: str, tokenizer: PreTrainedTokenizerBase, limit: int) -> list[int]:
    """Return the numbers of tokens from 1 to a limit with which the text of a gap can match a pattern.

    The errors are those of `GapPattern`, except that for lengths.
    """
    return gap_automaton(pattern, token_texts(tokenizer)).lengths(limit)


def _listed_lengths(possible: list[int]) -> str:
    """Describe lengths, with dashes for runs: "2, 4-64"."""
    runs: list[list[int]] = []
    for length in possible:
        if runs and runs[-1][-1] == length - 1:
            runs[-1].append(length)
        else:
            runs.append([length])
    listed = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return f"possible numbers of tokens up to {_MAX_LISTED_LENGTH}: {listed}" if runs else "no number of tokens does"
