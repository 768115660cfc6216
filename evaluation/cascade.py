"""What a small model and a larger one are worth together: the accuracy over the speed, and the best threshold.

Shapes: N texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# The share of right answers that may be lost, beside the larger model alone.
LOSS = 0.01
_POINTS = 101


@dataclass(frozen=True)
class CascadePoint:
    """What the two models are worth with one threshold.

    Attributes:
        below: The score of the small model below which the larger one reads a text.
        passed_on: The share of texts that the larger model reads.
        accuracy: The share of right answers.
        speed: The number of texts a second beside the larger model alone.
    """

    below: float
    passed_on: float
    accuracy: float
    speed: float


@dataclass(frozen=True)
class Cascade:
    """A small model and a larger one on the texts of a file.

    Attributes:
        small: The accuracy of the small model alone.
        large: The accuracy of the larger model alone.
        seconds: The seconds that each of them took, as they were measured here.
        chosen: What the two are worth with the threshold that was chosen at home, or None if none loses as little.
        curve: The same for thresholds that pass on ever more texts.
    """

    small: float
    large: float
    seconds: tuple[float, float]
    chosen: CascadePoint | None
    curve: list[CascadePoint]

    def in_words(self, then: str) -> str:
        """Say what the larger model, which has the name `then`, adds."""
        alone = f"The accuracy is {self.small:.3f} alone, and {self.large:.3f} with {then} alone."
        if self.chosen is None:
            return f"{alone} There are too few texts to choose the score below which to pass texts on."
        point = self.chosen
        return (
            f"{alone} With `predict --then {then} --then_below {point.below:.3f}`, {point.passed_on:.1%} of the texts "
            f"are passed on, which gives {point.accuracy:.3f}, {point.speed:.1f} times as fast as {then}."
        )


@dataclass(frozen=True, eq=False)
class TwoAnswers:
    """The answers of both models to the texts of a file.

    Attributes:
        score: (N,) the score of the small model's answer.
        small: (N,) bool, whether it is right.
        large: (N,) bool, whether the answer of the larger model is.
        seconds: The seconds that each model took.
    """

    score: np.ndarray
    small: np.ndarray
    large: np.ndarray
    seconds: tuple[float, float]

    def at(self, below: float) -> CascadePoint:
        """Return what the models are worth with a threshold."""
        passed = self.score < below
        small, large = self.seconds
        spent = small + float(passed.mean()) * large
        right = np.where(passed, self.large, self.small)
        return CascadePoint(below, float(passed.mean()), float(right.mean()), large / max(spent, 1e-9))

    def cascade(self, below: float | None) -> Cascade:
        """Return everything about the two models, with a threshold that was chosen at home."""
        thresholds: Sequence[float] = np.quantile(self.score, np.linspace(0, 1, _POINTS)).tolist()
        chosen = None if below is None else self.at(below)
        curve = [self.at(each) for each in [*dict.fromkeys(thresholds), np.nextafter(1.0, 2.0).item()]]
        return Cascade(float(self.small.mean()), float(self.large.mean()), self.seconds, chosen, curve)

    def threshold(self, loss: float = LOSS) -> float | None:
        """Return the lowest threshold that loses few right answers of the larger model.

        On new texts like these, the expected share of texts that only the small model gets wrong, and that it keeps, is
        at most `loss` (conformal risk control, Angelopoulos et al., 2024).

        Args:
            loss: The share to lose at most.

        Returns:
            The threshold, or None if there are too few texts to promise as little.
        """
        count = len(self.score)
        order = np.argsort(-self.score, kind="stable")
        lost = np.cumsum((self.large & ~self.small)[order])
        # The small model keeps texts whose score is at least the threshold, and so all that have the same score.
        kept = np.searchsorted(-self.score[order], -self.score[order], side="right") - 1
        allowed = np.flatnonzero(lost[kept] + 1 <= loss * (count + 1))
        return float(self.score[order][allowed[-1]]) if len(allowed) else None
