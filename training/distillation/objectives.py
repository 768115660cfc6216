"""What a student learns from the outputs of its teacher, by the kind of the teacher.

Shapes: B batch, S sequence, N texts, D channels, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch.nn import functional as F

from ...modeling.label_checks import IGNORED
from ...modeling.pooling import POOLINGS
from ...modeling.text_encoding.embedding_recipe import Dense, Normalize
from ...modeling.text_encoding.prepared_encoding import PreparedEncoding

# Vectors that are cut off at fewer dimensions are of little use.
_SMALLEST = 32
# The weight of the loss of truncated vectors. With equal weights, whole vectors would learn less.
_TRUNCATED = 0.2
# Divides the logits, so that students also learn how the teacher ranks unlikely labels (Hinton et al., 2015).
_TEMPERATURE = 2.0


class Objective(Protocol):
    """What a student learns.

    Attributes:
        metric: The name of the metric that compares a student with its teacher. Larger is better.
        task: The Hub's name of the task.
    """

    metric: ClassVar[str]
    task: ClassVar[str]

    def outputs(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return what a student computes for texts (B, S), in the form of the targets."""

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor, groups: torch.Tensor | None) -> torch.Tensor:
        """Return the loss of a batch. `groups` (B,) are the numbers of the queries of pairs."""

    def score(self, outputs: np.ndarray, targets: np.ndarray) -> float:
        """Return the metric for the outputs of a student and those of its teacher."""


class VectorOutputs:
    """The vectors of texts, whole and truncated.

    Args:
        prepared: How the teacher, or a pretrained student, turns texts into vectors.
        sizes: The sizes to which vectors can be truncated.
        hidden_size: The hidden size of a narrower student.

    Attributes:
        recipe: How the student turns texts into vectors.
    """

    task: ClassVar[str] = "feature-extraction"

    def __init__(self, prepared: PreparedEncoding, sizes: Sequence[int], hidden_size: int | None = None) -> None:
        self.recipe, self.skipped, channels = prepared.recipe, prepared.skipped, prepared.kept_channels
        if hidden_size is not None:
            # A dense layer is for vectors of the teacher's size.
            after = tuple(step for step in self.recipe.after if not isinstance(step, Dense))
            self.recipe = replace(self.recipe, after=after)
            channels = min(channels, self.recipe.channels(hidden_size))
        self.sizes = [*(size for size in sizes if size < channels), channels]

    def outputs(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the vectors (B, D). See `Objective`."""
        states = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"].bool()
        mask[:, : self.skipped] = False
        vectors = torch.cat([POOLINGS[mode](states, mask) for mode in self.recipe.pooling], dim=-1).float()
        for step in self.recipe.after:
            vectors = step(vectors)
        return vectors[:, : self.sizes[-1]]


class VectorObjective(VectorOutputs):
    """The vectors of the teacher: their directions and their lengths.

    The vectors of a narrower student are those of the teacher in fewer directions.

    Attributes:
        directions: (D, d) the directions of the vectors of a narrower student.
    """

    metric: ClassVar[str] = "cosine"
    directions: torch.Tensor | None = None

    @torch.no_grad()
    def choose_directions(self, targets: torch.Tensor, found: torch.Tensor) -> None:
        """Choose the principal directions, turned so that an untrained student is near to them (Procrustes).

        Without the turn, a student learns the mean of all vectors first, and has lost what it had of its teacher.

        Args:
            targets: (N, D) the vectors of the teacher.
            found: (n, d) the vectors of the untrained student for the first of the texts.
        """
        principal = principal_directions(targets, self.sizes[-1])
        left, _, right = torch.linalg.svd((targets[: len(found)] @ principal).T @ found)
        self.directions = principal @ left @ right

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor, groups: torch.Tensor | None) -> torch.Tensor:
        """See `Objective`."""
        losses, targets = [], self._turned(targets)
        for size in self.sizes:
            found, wanted = outputs[:, :size], targets[:, :size]
            error = F.mse_loss(found, wanted) / wanted.square().mean().clamp(min=1e-12)
            losses.append(1 - F.cosine_similarity(found, wanted).mean() + error)
        truncated = torch.stack(losses[:-1]).mean() if losses[:-1] else 0.0
        return losses[-1] + _TRUNCATED * truncated

    def score(self, outputs: np.ndarray, targets: np.ndarray) -> float:
        """Return the mean cosine. See `Objective`."""
        return float(F.cosine_similarity(torch.tensor(outputs), self._turned(torch.tensor(targets))).mean())

    def _turned(self, targets: torch.Tensor) -> torch.Tensor:
        """Return the vectors of the teacher in the directions of the student."""
        if self.directions is None:
            return targets
        turned = targets @ self.directions.to(targets)
        return F.normalize(turned, dim=-1) if Normalize() in self.recipe.after else turned


class SimilarityObjective(VectorOutputs):
    """The cosines between the teacher's vectors of different texts, which leave a pretrained student its own space.

    With tens of thousands of sentences, learning the vectors themselves made a pretrained student worse at retrieval,
    and learning their cosines made it better (benchmarks/RESULTS.md).
    """

    metric: ClassVar[str] = "correlation"

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor, groups: torch.Tensor | None) -> torch.Tensor:
        """Return the mean squared errors of the cosines between the texts of a batch. See `Objective`."""
        wanted = _cosines(targets)
        *truncated, whole = (F.mse_loss(_cosines(outputs[:, :size]), wanted) for size in self.sizes)
        # Scaled so that errors of a tenth are a loss of 1.
        return 100 * (whole + _TRUNCATED * (torch.stack(truncated).mean() if truncated else 0.0))

    def score(self, outputs: np.ndarray, targets: np.ndarray) -> float:
        """Return the correlation of the cosines. See `Objective`."""
        return correlation_of_cosines(outputs, targets)


def correlation_of_cosines(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return the correlation between the cosines of all pairs of texts, for two kinds of vectors (N, D), (N, d)."""
    pairs = np.triu_indices(len(wanted), 1)
    return correlation(*(_cosines(torch.tensor(each)).numpy()[pairs] for each in (found, wanted)))


def _cosines(vectors: torch.Tensor) -> torch.Tensor:
    """Return the cosines (N, N) between vectors (N, D)."""
    unit = F.normalize(vectors, dim=-1)
    # In bfloat16, cosines near 1 would be multiples of 1/256.
    with torch.autocast(unit.device.type, enabled=False):
        return unit @ unit.T


def correlation(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return the correlation of numbers (N,), or 0 if some are all equal or there are fewer than two."""
    if len(found) < 2 or not found.std() or not wanted.std():
        return 0.0
    return float(np.corrcoef(found, wanted)[0, 1])


class LabelObjective:
    """The probabilities of the labels of texts or of tokens."""

    metric: ClassVar[str] = "agreement"
    task: ClassVar[str] = "text-classification"

    def outputs(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the logits (B, C) or (B, S, C). See `Objective`."""
        logits: torch.Tensor = model(**inputs).logits.float()
        return logits

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor, groups: torch.Tensor | None) -> torch.Tensor:
        """See `Objective`."""
        real = (targets != IGNORED).any(dim=-1)
        found, wanted = outputs[real] / _TEMPERATURE, targets[real] / _TEMPERATURE
        divergence = F.kl_div(found.log_softmax(-1), wanted.log_softmax(-1), reduction="batchmean", log_target=True)
        return divergence * _TEMPERATURE**2

    def score(self, outputs: np.ndarray, targets: np.ndarray) -> float:
        """Return the share of texts or tokens for which both choose the same label. See `Objective`."""
        real = (targets != IGNORED).any(axis=-1)
        return float((outputs.argmax(-1) == targets.argmax(-1))[real].mean())


class TagObjective(LabelObjective):
    """The probabilities of the labels of tokens."""

    task: ClassVar[str] = "token-classification"


class SeveralLabelsObjective(LabelObjective):
    """The probability of each label, of which a text can have several."""

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor, groups: torch.Tensor | None) -> torch.Tensor:
        """See `Objective`."""
        found, wanted = outputs / _TEMPERATURE, targets / _TEMPERATURE
        entropy = F.binary_cross_entropy_with_logits(wanted, wanted.sigmoid())
        return (F.binary_cross_entropy_with_logits(found, wanted.sigmoid()) - entropy) * _TEMPERATURE**2

    def score(self, outputs: np.ndarray, targets: np.ndarray) -> float:
        """Return the share of labels for which both say the same. See `Objective`."""
        return float(((outputs > 0) == (targets > 0)).mean())


class ScoreObjective(LabelObjective):
    """The score of texts or of pairs, and the differences of the scores of the same query (Hofstätter et al., 2020)."""

    metric: ClassVar[str] = "correlation"

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor, groups: torch.Tensor | None) -> torch.Tensor:
        """See `Objective`."""
        errors = outputs - targets
        loss = errors.square().mean()
        if groups is not None:
            # The error of a margin is the difference of two errors.
            same = (groups[:, None] == groups).triu(1)
            first, second = same.nonzero(as_tuple=True)
            if len(first):
                loss = loss + (errors[first] - errors[second]).square().mean()
        return loss

    def score(self, outputs: np.ndarray, targets: np.ndarray) -> float:
        """Return the correlation of the scores. See `Objective`."""
        return correlation(outputs.ravel(), targets.ravel())


def principal_directions(vectors: torch.Tensor, size: int) -> torch.Tensor:
    """Return the directions (D, d) that keep most of the lengths of vectors (N, D), the most important one first."""
    return torch.linalg.eigh(vectors.T @ vectors).eigenvectors.flip(1)[:, :size].contiguous()


def matryoshka_sizes(channels: int) -> list[int]:
    """Return the powers of two to which vectors can be truncated."""
    return [2**power for power in range(_SMALLEST.bit_length() - 1, channels.bit_length()) if 2**power < channels]
