"""Fits the scaling and the prediction sets of each task to what a model computes for examples.

Shapes: N texts, C classes, A answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...command_line import UsageError
from ...modeling.calibration.calibration import PredictionSets, check_coverage
from ..predicting import Outputs
from .choice_of_scaling import choose_scaling
from .reliability import Confidences
from .scaling import Scaling, multi_label_loss, single_label_loss


@dataclass(frozen=True)
class ToFit:
    """What a task is calibrated on.

    Attributes:
        outputs: The outputs of the model.
        rows: The encoded examples, with their labels; of questions, their windows.
        labels: The names of the labels.
        folds: (N,) the fold of each row. All windows of a question have the same.
        coverages: The coverages of the sets.
        methods: The methods of scaling to choose from.
    """

    outputs: Outputs
    rows: list[dict[str, Any]]
    labels: list[str]
    folds: torch.Tensor
    coverages: tuple[float, ...]
    methods: Sequence[str]


@dataclass(frozen=True)
class Fitted:
    """A scaling and prediction sets, and how good they are on texts that they were not fitted to.

    Attributes:
        scaling: The scaling of the logits.
        sets: The prediction sets.
        before: The answers of the model as it was.
        after: Its answers with a scaling that was fitted to other texts.
        sets_held_out: The coverage and the mean size of sets on other texts than those that their thresholds are from,
            by the coverage that was asked for.
        logits: (N, C) the scaled logits; None without one prediction per text.
        classes: (N,) the classes of texts that have one each.
    """

    scaling: Scaling
    sets: PredictionSets
    before: Confidences
    after: Confidences
    sets_held_out: dict[str, dict[str, float]]
    logits: torch.Tensor | None = None
    classes: torch.Tensor | None = None


def fit_classification(given: ToFit) -> Fitted:
    """Calibrate a classifier with one label per text. Each row has its class in `labels`."""
    folds, coverages = given.folds, given.coverages
    logits, classes = given.outputs.stacked, torch.tensor([row["labels"] for row in given.rows])

    def hits(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        return logits.argmax(-1) == classes

    scaling, held_out = choose_scaling(logits, classes, single_label_loss, hits, folds, given.methods)
    probabilities = held_out.softmax(-1)
    truth = torch.nn.functional.one_hot(classes, logits.shape[1]).bool()
    before, after = (Confidences(each.softmax(-1).amax(-1), hits(each, classes)) for each in (logits, held_out))
    sets = sets_of(probabilities, truth, coverages)
    checked = check_sets(probabilities, truth, folds, coverages)
    return Fitted(scaling, sets, before, after, checked, scaling(logits), classes)


def fit_multi_label(given: ToFit) -> Fitted:
    """Calibrate a classifier with any number of labels per text. Each label of each text is an answer, yes or no.

    Args:
        given: The texts, with a 1 for each of their labels in `labels`, and 0 for others.

    Raises:
        UsageError: If there are too few texts with a label.
    """
    folds, coverages = given.folds, given.coverages
    logits, truth = given.outputs.stacked, torch.tensor([row["labels"] for row in given.rows])

    def hits(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        return ((logits > 0) == truth.bool()).float().mean(-1)

    scaling, held_out = choose_scaling(logits, truth, multi_label_loss, hits, folds, given.methods)
    before, after = (
        Confidences(each.abs().sigmoid().flatten(), ((each > 0) == truth.bool()).flatten())
        for each in (logits, held_out)
    )
    check_number(coverages, int(truth.any(-1).sum()), "texts with a label")
    probabilities = held_out.sigmoid()
    sets = sets_of(probabilities, truth.bool(), coverages)
    checked = check_sets(probabilities, truth.bool(), folds, coverages, several_labels=True)
    return Fitted(scaling, sets, before, after, checked, scaling(logits))


def check_number(coverages: Sequence[float], number: int, what: str) -> None:
    """Check that there are enough texts or entities for coverages.

    Args:
        coverages: The coverages.
        number: The number of texts or entities.
        what: What they are, for the error.

    Raises:
        UsageError: If there are too few for a coverage, or a coverage is not between 0 and 1.
    """
    for coverage in coverages:
        try:
            check_coverage("coverages", coverage, number, what)
        except ValueError as error:
            raise UsageError(error) from error


def sets_of(probabilities: torch.Tensor, truth: torch.Tensor, coverages: tuple[float, ...]) -> PredictionSets:
    """Return prediction sets with thresholds from texts.

    Args:
        probabilities: (N, C).
        truth: (N, C) bool.
        coverages: The coverages to report.
    """
    numbers = truth.sum(-1, keepdim=True).clamp(min=1)
    weights = (1 / numbers).expand_as(probabilities)[truth]
    scores, order = (1 - probabilities)[truth].sort()
    # A text without a label says nothing about how often sets contain labels.
    return PredictionSets(scores, weights[order], int(truth.any(-1).sum()), coverages)


def check_sets(
    probabilities: torch.Tensor,
    truth: torch.Tensor,
    folds: torch.Tensor,
    coverages: tuple[float, ...],
    several_labels: bool = False,
) -> dict[str, dict[str, float]]:
    """Return the coverage and the mean size of the sets of each fold, with thresholds from the other folds."""
    checked = {}
    for coverage in coverages:
        inside = torch.zeros_like(truth)
        for fold in folds.unique():
            held_out = folds == fold
            sets = sets_of(probabilities[~held_out], truth[~held_out], coverages)
            # A fold less may be too few texts for the coverage, which then needs all labels.
            possible = sets.highest_coverage >= coverage
            found = sets.contain(probabilities[held_out], coverage, several_labels) if possible else True
            inside[held_out] = found
        labelled = truth.any(-1)
        share = (inside & truth).sum(-1)[labelled] / truth.sum(-1)[labelled]
        checked[str(coverage)] = {
            "coverage": round(float(share.mean()), 4),
            "mean_size": round(float(inside.sum(-1).float().mean()), 4),
        }
    return checked
