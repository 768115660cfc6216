"""Groups texts by length, since exported graphs compute padding in attention."""

from __future__ import annotations

import torch

# A smaller batch does not keep a processor busy, and its fixed cost is larger than that of padding.
_LEAST_TOKENS = 256
# The most tokens of a batch with padding, relative to those without.
_PADDED = 1.25


def similar_lengths(lengths: list[int]) -> tuple[list[list[int]], torch.Tensor]:
    """Group the indices of texts by length, the shortest texts first.

    A group ends when it has enough tokens and the next text would add too much padding.

    Args:
        lengths: The number of tokens of each text (N).

    Returns:
        The groups, and the places (N) of the texts in the groups, one after the other.
    """
    groups: list[list[int]] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[index]
        padded = (len(groups[-1]) + 1) * length if groups else 0
        if not groups or (tokens >= _LEAST_TOKENS and padded > _PADDED * (tokens + length)):
            groups.append([])
            tokens = 0
        groups[-1].append(index)
        tokens += length
    return groups, torch.tensor([index for group in groups for index in group]).argsort()
