"""Starts the token vectors of a new encoder from the tokens that stand near each other in its texts.

Training would spend its first steps on learning which tokens occur together, and counting them takes seconds. The
vectors are singular vectors of the positive mutual information of tokens (Levy et al., 2015, "Improving Distributional
Similarity with Lessons Learned from Word Embeddings").

Shapes: T tokens, V vocabulary, E channels of the embeddings.
"""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from ...command_line.progress import Progress
from ...data.packs import PackedWindows

# More tokens take longer, and hardly change the vectors of frequent ones.
_MOST_TOKENS = 5_000_000
# How far apart two tokens count as neighbours. A pair counts by the inverse of its distance.
_REACH = 5
# The exponent of the frequencies of neighbours, so that pairs with a rare one do not count too much.
_SMOOTHING = 0.75
# Iterations of the singular value decomposition, and channels that it computes beyond those that are kept.
_ITERATIONS, _OVERSAMPLING = 4, 8


@torch.no_grad()
def start_from_neighbours(model: PreTrainedModel, packs: PackedWindows, show_progress: bool = True) -> None:
    """Replace the random vectors of the tokens that occur in texts, if there are more of them than channels.

    The new vectors all have the mean length of the random ones. The state of the random numbers does not change.

    Args:
        model: A new encoder, with or without heads.
        packs: The windows that it will train on, in a `datasets.Dataset`.
        show_progress: Whether to show the progress if this takes longer than two seconds.
    """
    table = cast(nn.Embedding, model.get_input_embeddings()).weight
    with Progress("Computing the first token vectors", show=show_progress), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        information = _mutual_information(_tokens_of(packs), len(table))
        known = torch.zeros(len(table), dtype=torch.bool)
        known[information.indices()[0]] = True
        channels = table.shape[1]
        if int(known.sum()) <= channels + _OVERSAMPLING:
            return
        found, sizes, _ = torch.svd_lowrank(information, channels + _OVERSAMPLING, _ITERATIONS)
    vectors = found[known, :channels] * sizes[:channels].sqrt()
    table[known] = F.normalize(vectors - vectors.mean(0), dim=1) * table.norm(dim=1).mean()


def _tokens_of(packs: PackedWindows) -> torch.Tensor:
    """Return the tokens (T,) of evenly spread windows, with as many -1 between two windows as a pair can be apart."""
    chosen = packs.windows.select(range(0, len(packs.windows), math.ceil(packs.tokens / _MOST_TOKENS)))
    gap = np.full(_REACH, -1)
    return torch.from_numpy(np.concatenate([part for window in chosen for part in (window["input_ids"], gap)])).long()


def _mutual_information(tokens: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Return the positive mutual information of each token and each of its neighbours, (V, V) sparse."""
    codes, counts = [], []
    for distance in range(1, _REACH + 1):
        first, second = tokens[:-distance], tokens[distance:]
        low, high = torch.minimum(first, second), torch.maximum(first, second)
        found, times = (low * vocabulary + high)[low >= 0].unique(return_counts=True)
        codes.append(found)
        counts.append(times.float() / distance)
    places = torch.stack([torch.cat(codes) // vocabulary, torch.cat(codes) % vocabulary])
    once = _sparse(places, torch.cat(counts), vocabulary)
    pairs = _sparse(torch.cat([once.indices(), once.indices().flip(0)], 1), once.values().repeat(2), vocabulary)
    (rows, columns), values = pairs.indices(), pairs.values()
    frequencies = torch.zeros(vocabulary).index_add(0, rows, values)
    smoothed = frequencies.pow(_SMOOTHING)
    information = (values * smoothed.sum() / (frequencies[rows] * smoothed[columns])).log()
    positive = information > 0
    places = pairs.indices()[:, positive]
    return torch.sparse_coo_tensor(
        places, information[positive], pairs.shape, check_invariants=False, is_coalesced=True
    )


def _sparse(indices: torch.Tensor, values: torch.Tensor, size: int) -> torch.Tensor:
    """Return a square sparse matrix with the sums of the values at each place."""
    return torch.sparse_coo_tensor(indices, values, (size, size), check_invariants=False).coalesce()
