"""Which masks are written in a step: those with the highest priority.

Shapes: M masks of all texts, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass
class Predictions:
    """What the model predicts for M masks.

    Attributes:
        tokens: (M,) the token to write at each mask.
        confidence: (M,) its probability.
        priority: (M,) masks with the highest priority are written first.
        entropy: (M,) in nats; None if it is not needed.
    """

    tokens: torch.Tensor
    confidence: torch.Tensor
    priority: torch.Tensor
    entropy: torch.Tensor | None = None


def entropy_of(scores: torch.Tensor) -> torch.Tensor:
    """Return the entropy (M,) in nats of the distributions that scores (M, V) describe."""
    logs = scores.log_softmax(-1)
    # The probability of a forbidden token is 0, and its logarithm infinite.
    return -(logs.exp() * logs.masked_fill(logs == -torch.inf, 0)).sum(-1)


def _margin(scores: torch.Tensor, confidence: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    best = scores.topk(min(2, scores.shape[-1]), -1).values
    chances = (best - scores.logsumexp(-1, keepdim=True)).exp()
    return chances[:, 0] - chances[:, 1:].sum(-1)


@dataclass(frozen=True)
class Unmasking:
    """A rule that decides which masks are written in a step.

    Attributes:
        priority: Takes the scores (M, V), the probability (M,) of the chosen tokens, and random numbers (M,) from
            [0, 1), and returns (M,).
        ancestral: Whether each mask is written with the same probability, independently of the others and of what the
            model predicts, instead of as many as the number of remaining steps demands.
    """

    priority: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    ancestral: bool = False


# "confidence" follows MaskGIT (Chang et al., 2022) and LLaDA (Nie et al., 2025), "margin" Kim et al. (2025), "entropy"
# Ben-Hamu et al. (2025), and "random" is the ancestral sampling of MDLM (Sahoo et al., 2024).
UNMASKING = {
    "confidence": Unmasking(lambda scores, confidence, uniform: confidence),
    "margin": Unmasking(_margin),
    "entropy": Unmasking(lambda scores, confidence, uniform: -entropy_of(scores)),
    "random": Unmasking(lambda scores, confidence, uniform: uniform, ancestral=True),
}


def in_order(text: torch.Tensor, priority: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sort masks by text and, within a text, from the highest priority to the lowest.

    Args:
        text: (M,) the text of each mask, ascending.
        priority: (M,).

    Returns:
        (M,) the order, and (M,) the rank of each mask of that order within its text, from 0.
    """
    order = priority.argsort(descending=True, stable=True)
    order = order[text[order].argsort(stable=True)]
    sorted_text = text[order]
    first = torch.searchsorted(sorted_text, sorted_text)
    return order, torch.arange(len(order), device=order.device) - first


def within_entropy_bound(entropy: torch.Tensor, rank: torch.Tensor, bound: float) -> torch.Tensor:
    """Select as many masks as can be written independently, given a bound on their mutual information.

    The mutual information of k masks is at most the sum of their entropies without the largest (Ben-Hamu et al., 2025,
    equation 8). The mask with rank 0 is always selected.

    Args:
        entropy: (M,) in nats, text by text in the order of the ranks, which is ascending within a text.
        rank: (M,), see `in_order`.
        bound: In nats.

    Returns:
        (M,) bool.
    """
    before = entropy.double().cumsum(0) - entropy
    start = torch.arange(len(rank), device=rank.device) - rank
    return before - before[start] <= bound
