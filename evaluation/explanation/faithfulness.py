"""Whether an explanation names the words that the model uses: comprehensiveness and sufficiency (DeYoung et al., 2020).

Shapes: N copies, W words of a request, K fractions, R orders.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .values import Values
from .words import Request

FRACTIONS = (0.1, 0.2, 0.5)
RANDOM_ORDERS = 6


@dataclass(frozen=True)
class Faithfulness:
    """What becomes of a number without the words that matter, and with these words alone.

    The numbers of labels, entities, answers and masked tokens count as probabilities, others as they are. Each value is
    the mean over several fractions of the words. Those of random orders are means over several orders.

    Attributes:
        comprehensiveness: What the number loses without the first words of the explanation: the more, the better.
        sufficiency: What it loses if only these words are left: the less, the better.
        random_comprehensiveness: What it loses on average without words in a random order.
        random_sufficiency: What it loses on average with words in a random order alone.
    """

    comprehensiveness: float
    sufficiency: float
    random_comprehensiveness: float
    random_sufficiency: float

    @property
    def gain(self) -> float:
        """How much better the explanation is than random orders, in both measures together."""
        more = self.comprehensiveness - self.random_comprehensiveness
        return more + self.random_sufficiency - self.sufficiency

    @property
    def better_than_random(self) -> bool:
        """Whether the explanation is better than random orders."""
        return self.gain > 0


def faithfulness(
    values: Values, requests: Sequence[Request], scores: Sequence[torch.Tensor], seed: int
) -> list[list[Faithfulness]]:
    """Measure explanations.

    Args:
        values: Computes the numbers.
        requests: The texts.
        scores: The scores of words for each text, (W, T).
        seed: The seed of the random orders.

    Returns:
        The measures for each text and target.
    """
    asked, sizes = [], [_sizes(len(request.words)) for request in requests]
    for request, given, counts in zip(requests, scores, sizes, strict=True):
        random = np.random.default_rng(seed)
        orders = [random.permutation(len(request.words)) for _ in range(-(-RANDOM_ORDERS // 2))]
        # With its reverse, an order is closer to the mean of all orders.
        orders = [order for one in orders for order in (one, one[::-1])]
        orders += [column.argsort(descending=True, stable=True).numpy() for column in given.t()]
        ranks = torch.from_numpy(np.stack(orders).argsort(1))
        first = ranks[:, None] < torch.tensor(counts)[None, :, None]
        copies = torch.cat([~first, first], dim=1).flatten(0, 1)
        asked.append((request, torch.cat([request.kept(1), copies])))
    found = []
    for request, numbers, counts in zip(requests, values(asked), sizes, strict=True):
        scaled = values.head.scaled(numbers)
        # (orders, measures, fractions, T)
        losses = (scaled[:1] - scaled[1:]).unflatten(0, (-1, 2, len(counts))).mean(2)
        targets = len(request.targets)
        random = losses[:-targets].mean(0)
        own = losses[-targets:].diagonal(dim1=0, dim2=2)
        found.append([Faithfulness(*own[:, t].tolist(), *random[:, t].tolist()) for t in range(targets)])
    return found


def _sizes(words: int) -> list[int]:
    """Return the numbers of first words to count for each fraction."""
    return [max(1, math.ceil(fraction * words - 1e-9)) for fraction in FRACTIONS]
