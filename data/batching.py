"""Groups texts into batches with about the same number of tokens."""

from collections.abc import Iterator
from typing import Any


def token_batches(lengths: list[int], max_tokens: int) -> list[list[int]]:
    """Group the indices of texts into batches of at most `max_tokens` tokens, the shortest texts first.

    A text that exceeds the budget alone gets its own batch. Empty texts are left out.
    """
    batches: list[list[int]] = []
    tokens = max_tokens
    for index in sorted((i for i, length in enumerate(lengths) if length), key=lengths.__getitem__):
        tokens += lengths[index]
        if tokens > max_tokens:
            batches.append([])
            tokens = lengths[index]
        batches[-1].append(index)
    return batches


def longest_first(lengths: list[int], max_tokens: int, progress: Any = None) -> Iterator[list[int]]:
    """Yield the batches of `token_batches`, the longest texts first, so that a lack of memory shows at once.

    Args:
        lengths: The number of tokens of each text.
        max_tokens: The largest number of tokens in a batch.
        progress: A progress bar, which advances by the texts of each batch once the next one is asked for.
    """
    for batch in reversed(token_batches(lengths, max_tokens)):
        yield batch
        if progress is not None:
            progress.update(len(batch))
