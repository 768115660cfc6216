"""How the vectors of a text's tokens become one, for texts that stand one after the other in a row.

The names of the poolings are those of sentence-transformers.

Shapes: N texts, L tokens of each of them, T tokens of all, D hidden.
"""

import itertools
from collections.abc import Callable, Sequence

import torch


def _weighted_mean(tokens: torch.Tensor, skipped: int) -> torch.Tensor:
    """The mean weighted by position, which counts the tokens of the prompt."""
    weights = torch.arange(skipped + 1, skipped + 1 + tokens.shape[1], device=tokens.device, dtype=tokens.dtype)
    return weights @ tokens / weights.sum()


# Which token stands for a text, by its length and the tokens of the prompt before it.
_ONE_TOKEN: dict[str, Callable[[int, int], int]] = {
    "cls": lambda length, skipped: skipped if skipped < length else 0,
    "lasttoken": lambda length, skipped: length - 1,
}
# From the tokens of texts of one length without the prompt (N, L, D), and the tokens of the prompt, to (N, D).
_ALL_TOKENS: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "max": lambda tokens, skipped: tokens.amax(1),
    "mean": lambda tokens, skipped: tokens.mean(1),
    "mean_sqrt_len_tokens": lambda tokens, skipped: tokens.sum(1) / tokens.shape[1] ** 0.5,
    "weightedmean": _weighted_mean,
}
POOLINGS_OF_TEXTS = ("mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


def check_pooling(pooling: str, allowed: Sequence[str] = POOLINGS_OF_TEXTS) -> None:
    """Checks the name of a pooling.

    Raises:
        ValueError: if it is not one of those allowed.
    """
    if pooling not in allowed:
        raise ValueError(f"pooling must be one of {', '.join(map(repr, allowed))}, got {pooling!r}.")


def pooled(hidden_states: torch.Tensor, lengths: Sequence[int], modes: Sequence[str], skipped: int) -> torch.Tensor:
    """Pools the tokens of each text.

    Args:
        hidden_states: (T, D) of texts one after the other, the shortest first.
        lengths: of the texts.
        modes: the poolings, whose results are concatenated.
        skipped: tokens at the start of each text that are left out, those of a prompt.

    Returns:
        (N, D x modes), zero for a text without tokens after the prompt where all tokens count; in float32 or wider,
        unless each mode takes one token of each text.
    """
    runs = [(length, len(list(group))) for length, group in itertools.groupby(lengths)]
    parts = hidden_states.split([length * count for length, count in runs])
    vectors = []
    for part, (length, count) in zip(parts, runs, strict=True):
        texts = part.unflatten(0, (count, length))
        vectors.append(torch.cat([_pool(texts, mode, skipped) for mode in modes], dim=-1))
    return torch.cat(vectors)


def needed_tokens(lengths: Sequence[int], modes: Sequence[str], skipped: int) -> torch.Tensor | bool:
    """Which tokens of a row of texts `pooled` reads: (1, T) bool, or True for all."""
    if any(mode not in _ONE_TOKEN for mode in modes):
        return True
    starts = itertools.accumulate(lengths[:-1], initial=0)
    places = [
        start + _ONE_TOKEN[mode](length, skipped)
        for start, length in zip(starts, lengths, strict=True)
        for mode in modes
    ]
    return torch.zeros(1, sum(lengths), dtype=torch.bool).index_fill(1, torch.tensor(places), True)


def _pool(texts: torch.Tensor, mode: str, skipped: int) -> torch.Tensor:
    if mode in _ONE_TOKEN:
        return texts[:, _ONE_TOKEN[mode](texts.shape[1], skipped)]
    # Sums over many tokens, and the places of tokens, can be more than float16 holds.
    tokens = texts[:, skipped:].to(torch.promote_types(texts.dtype, torch.float32))
    return _ALL_TOKENS[mode](tokens, skipped) if tokens.shape[1] else tokens.new_zeros(texts.shape[0], texts.shape[2])
