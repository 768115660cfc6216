"""Compares how often answers are right with how confident the model was, in numbers and in a diagram.

Shapes: A answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

# As in Guo et al. (2017).
BINS = 15


@dataclass(frozen=True)
class Confidences:
    """The confidences of answers, and whether they are right.

    Attributes:
        confidence: (A,) from 0 to 1.
        correct: (A,) bool.
    """

    confidence: torch.Tensor
    correct: torch.Tensor

    def bins(self) -> list[tuple[float, float, int]]:
        """Return the mean confidence, the share of right answers and the number of answers of each bin with answers."""
        index = (self.confidence * BINS).long().clamp(0, BINS - 1)
        found = []
        for each in index.unique().tolist():
            inside = index == each
            confidence, correct = self.confidence[inside].double(), self.correct[inside].double()
            found.append((float(confidence.mean()), float(correct.mean()), int(inside.sum())))
        return found

    def metrics(self) -> dict[str, float]:
        """Return the accuracy, the mean confidence, the expected calibration error and the Brier score of answers.

        That score is the squared error of the confidences, where `evaluate` sums the squared errors of all labels.
        """
        total = len(self.confidence)
        error = sum(abs(confidence - correct) * count for confidence, correct, count in self.bins()) / total
        confidence, correct = self.confidence.double(), self.correct.double()
        found = {
            "accuracy": float(correct.mean()),
            "mean_confidence": float(confidence.mean()),
            "expected_calibration_error": error,
            "answer_brier_score": float((confidence - correct).square().mean()),
        }
        return {name: round(value, 4) for name, value in found.items()}


def plot_reliability(answers: Mapping[str, Confidences], file: Path) -> None:
    """Draw how often answers are right for each confidence, as a PNG.

    Args:
        answers: The answers of each diagram by its title, such as "before" and "after".
        file: The file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(answers), 3.8), layout="constrained")
    axes = figure.subplots(1, len(answers), squeeze=False, sharey=True)[0]
    for axis, (title, each) in zip(axes, answers.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1)
        total = len(each.confidence)
        for confidence, correct, count in each.bins():
            # The darker a bar, the more answers it stands for.
            axis.bar(confidence, correct, width=0.8 / BINS, color="tab:blue", alpha=0.15 + 0.85 * count / total)
            axis.plot([confidence], [correct], "o", color="tab:blue", markersize=3)
        error = each.metrics()["expected_calibration_error"]
        axis.set_title(f"{title}: expected calibration error {error:.3f}", fontsize=9)
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1)
        axis.set_xlabel("confidence")
    axes[0].set_ylabel("share of right answers")
    figure.savefig(file, dpi=150)
