"""Pooling of texts that are packed into one row in ascending order of length.

Shapes: N texts, L tokens of each of them, T tokens of all, D hidden.
"""

import itertools
from collections.abc import Sequence

import torch

from ..packing import moved
from ..pooling import POOLINGS, SELECTED_TOKENS


def _runs(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Return (number of texts, length) for each run of texts of equal length."""
    return [(len(list(group)), length) for length, group in itertools.groupby(lengths)]


def _token_mask(length: int, skipped: int) -> torch.Tensor:
    """Return which tokens of a text to pool, (1, L) bool: those after the prompt."""
    return torch.arange(length)[None] >= skipped


def pooled(hidden_states: torch.Tensor, lengths: Sequence[int], modes: Sequence[str], skipped: int) -> torch.Tensor:
    """Pool the tokens of each text.

    Args:
        hidden_states: (T, D) tokens of all texts in ascending order of length.
        lengths: The lengths of the texts.
        modes: The poolings, whose results are concatenated.
        skipped: Number of tokens to skip at the start of each text, those of the prompt.

    Returns:
        (N, D x modes), in float32 or wider unless every pooling selects a single token. Poolings over all tokens give
        zeros for a text without tokens after the prompt.
    """
    runs = _runs(lengths)
    parts = hidden_states.split([count * length for count, length in runs])
    vectors = []
    for part, (count, length) in zip(parts, runs, strict=True):
        texts = part.unflatten(0, (count, length))
        mask = moved(_token_mask(length, skipped), texts.device).expand(count, -1) if skipped else None
        vectors.append(torch.cat([POOLINGS[mode](texts, mask) for mode in modes], dim=-1))
    return torch.cat(vectors)


def needed_tokens(lengths: Sequence[int], modes: Sequence[str], skipped: int) -> torch.Tensor | bool:
    """Return which tokens `pooled` reads, (1, T) bool, or True for all.

    Args:
        lengths: The lengths of the texts.
        modes: The poolings.
        skipped: Number of tokens to skip at the start of each text.
    """
    if any(mode not in SELECTED_TOKENS for mode in modes):
        return True
    runs = _runs(lengths)
    needed = torch.zeros(1, sum(lengths), dtype=torch.bool)
    for part, (count, length) in zip(needed[0].split([count * length for count, length in runs]), runs, strict=True):
        for mode in modes:
            part.view(count, length)[:, SELECTED_TOKENS[mode](_token_mask(length, skipped))] = True
    return needed
