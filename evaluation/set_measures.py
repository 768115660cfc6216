"""Measures the sets of a calibrated model: what share of the true labels they contain, and how large they are.

Shapes: N texts or entities, C labels or kinds of entities.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..modeling.calibration.calibration import PredictionSets
from ..modeling.calibration.entities import kinds_of, probabilities_of_kinds
from .calibration.calibrating import encoded_rows
from .calibration.fitting_answers import in_set, questions_of
from .calibration.fitting_entities import find_entities
from .examples import Examples
from .judging import Judged
from .predicting import Predictions


def measure_sets(
    sets: PredictionSets, examples: Examples, inputs: Any, predictions: Predictions, judged: Judged
) -> dict[str, dict[str, float]]:
    """Return the mean size of the sets for each coverage and, with labels, the share of labels that they contain.

    For entities, it is the share of those that the model finds whose sets contain their true kind. There are no sets
    if it finds none. For questions, it is the share whose sets contain a right answer.

    Args:
        sets: The sets of the calibration of the model.
        examples: The texts.
        inputs: Their inputs.
        predictions: What the model says about them.
        judged: Its answers.
    """
    if examples.task_name == "qa":
        candidates = _candidates(examples, inputs, predictions)
        return {
            f"{coverage:g}": _of_answers(candidates, sets.threshold(coverage), examples.labelled)
            for coverage in sets.coverages
        }
    probabilities, known = judged.probabilities, judged.known
    if examples.task_name == "ner":
        probabilities, known = _entities(examples, inputs, predictions)
    if probabilities is None:
        return {}
    several = examples.task_name == "multi-label"
    return {f"{coverage:g}": _of_labels(sets, probabilities, known, coverage, several) for coverage in sets.coverages}


def _of_labels(
    sets: PredictionSets, probabilities: np.ndarray, known: np.ndarray | None, coverage: float, several: bool
) -> dict[str, float]:
    """Measure sets of labels, given the probabilities (N, C) and the true labels, (N,) or (N, C)."""
    inside = sets.contain(torch.as_tensor(probabilities), coverage, several).numpy()
    found = {"size": float(inside.sum(1).mean())}
    if known is None:
        return found
    if several:
        labelled = known.any(1)
        shares = (inside & known)[labelled].sum(1) / known[labelled].sum(1)
        return {"coverage": float(shares.mean()) if len(shares) else 1.0, **found}
    return {"coverage": float(inside[np.arange(len(inside)), known].mean()), **found}


def _entities(examples: Examples, inputs: Any, predictions: Predictions) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return the probabilities (N, C) and the true kinds (N,) of the entities that the model finds, if it finds any."""
    labels = examples.task.labels
    found = find_entities(predictions.logits, list(inputs["labels"]), labels)
    if found is None:
        return None, None
    probabilities = probabilities_of_kinds(found.means(found.logits.double().softmax(-1).float()), labels).numpy()
    kinds = kinds_of(labels)
    return probabilities, np.array([kinds.index(kind) for kind in found.truth]) if examples.labelled else None


def _candidates(examples: Examples, inputs: Any, predictions: Predictions) -> list[list[tuple[float, str, bool]]]:
    rows = encoded_rows(examples.task, examples.rows, inputs)
    questions = questions_of(rows, predictions.logits, [0] * len(rows))
    return [question.candidates(1.0, examples.task.impossible) for question in questions]


def _of_answers(candidates: list[list[tuple[float, str, bool]]], threshold: float, labelled: bool) -> dict[str, float]:
    covered, sizes = zip(*(in_set(each, threshold) for each in candidates), strict=True)
    size = {"size": float(np.mean(sizes))}
    return {"coverage": float(np.mean(covered)), **size} if labelled else size
