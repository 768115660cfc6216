"""Turns the outputs of a model into answers with confidences and sets, and compares them with the labels.

Shapes: N texts or entities, U answers (labels of texts, or tags of words), C classes or kinds of entities.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from ..modeling.calibration.calibration import PredictionSets
from ..modeling.calibration.entities import kinds_of, probabilities_of_kinds
from ..modeling.label_checks import IGNORED
from .calibration.calibrating import encoded_rows
from .calibration.fitting_answers import in_set, questions_of
from .calibration.fitting_entities import find_entities
from .examples import Examples
from .metrics import Sums, classification_sums, entity_sums, mean_sums, multi_label_sums
from .predicting import Predictions
from .tasks.answers import Answers


@dataclass(frozen=True)
class Judged:
    """The answers of a model to the texts of a file.

    Attributes:
        confidence: (U,) the probability of each answer.
        owner: (U,) the number of its text.
        answers: (U,) the answers: numbers of labels, whether a text has a label, or texts.
        correct: (U,) whether it is right, if there are labels.
        brier: (U,) the squared error of its probabilities, if there are labels.
        sums: The metrics of the task, if there are labels.
        probabilities: (N, C) for classification, else None.
        known: (N,) or (N, C) the labels for classification, if there are labels.
    """

    confidence: np.ndarray
    owner: np.ndarray
    answers: np.ndarray
    correct: np.ndarray | None = None
    brier: np.ndarray | None = None
    sums: Sums | None = None
    probabilities: np.ndarray | None = None
    known: np.ndarray | None = None

    def confidence_of_texts(self) -> np.ndarray:
        """Return the mean confidence of the answers of each text, (N,)."""
        count = np.bincount(self.owner)
        return np.bincount(self.owner, weights=self.confidence) / np.maximum(count, 1)


def judge_labels(task: Any, rows: Any, inputs: Any, found: Predictions, labelled: bool) -> Judged:
    """Judge classification with one label per text."""
    probabilities = _softmax(torch.stack(found.logits).numpy())
    predicted, owner = probabilities.argmax(1), np.arange(len(probabilities))
    judged = Judged(probabilities.max(1), owner, predicted, probabilities=probabilities)
    if not labelled:
        return judged
    known = np.asarray(inputs["labels"])
    errors = probabilities - np.eye(probabilities.shape[1])[known]
    return Judged(
        judged.confidence,
        owner,
        predicted,
        predicted == known,
        (errors**2).sum(1),
        classification_sums(predicted, known, probabilities.shape[1]),
        probabilities,
        known,
    )


def judge_label_sets(task: Any, rows: Any, inputs: Any, found: Predictions, labelled: bool) -> Judged:
    """Judge classification with several labels per text. Each label of each text is an answer: yes or no."""
    probabilities = 1 / (1 + np.exp(-torch.stack(found.logits).numpy().astype(np.float64)))
    predicted = probabilities > 0.5
    owner = np.repeat(np.arange(len(predicted)), predicted.shape[1])
    confidence = np.maximum(probabilities, 1 - probabilities).ravel()
    if not labelled:
        return Judged(confidence, owner, predicted.ravel(), probabilities=probabilities)
    known = np.asarray(inputs["labels"]) > 0.5
    return Judged(
        confidence,
        owner,
        predicted.ravel(),
        (predicted == known).ravel(),
        ((probabilities - known) ** 2).ravel(),
        multi_label_sums(predicted, known),
        probabilities,
        known,
    )


def judge_tags(task: Any, rows: Any, inputs: Any, found: Predictions, labelled: bool) -> Judged:
    """Judge entities. The tag of each word is an answer."""
    confidence, owner, answers, correct, brier, counts = [], [], [], [], [], []
    for index, (logits, given) in enumerate(zip(found.logits, inputs["labels"], strict=True)):
        kept = np.asarray(given)
        known = kept[kept != IGNORED]
        probabilities = _softmax(logits.numpy()[kept != IGNORED])
        predicted = probabilities.argmax(1)
        confidence.append(probabilities.max(1))
        owner.append(np.full(len(predicted), index))
        answers.append(predicted)
        correct.append(predicted == known)
        brier.append(((probabilities - np.eye(probabilities.shape[1])[known]) ** 2).sum(1))
        counts.append(task.counts([task.labels[x] for x in predicted], [task.labels[x] for x in known]))
    judged = Judged(np.concatenate(confidence), np.concatenate(owner), np.concatenate(answers))
    if not labelled:
        return judged
    sums = entity_sums(np.array(counts))
    return replace(judged, correct=np.concatenate(correct), brier=np.concatenate(brier), sums=sums)


def judge_spans(task: Answers, rows: Any, inputs: Any, found: Predictions, labelled: bool) -> Judged:
    """Judge answers to questions. An answer is right if it matches a known one exactly."""
    from transformers import EvalPrediction

    padded = pad_sequence(found.logits, batch_first=True).numpy()
    outputs: Any = (padded[..., 0], padded[..., 1])
    answers = task.scored_answers(rows, inputs, EvalPrediction(outputs, np.empty(0)))
    texts, scores = zip(*answers, strict=True)
    given = np.array(texts, dtype=object)
    confidence, owner = np.array(scores, dtype=np.float64).clip(0, 1), np.arange(len(texts))
    if not labelled:
        return Judged(confidence, owner, given)
    exact, f1 = (np.array(each) for each in zip(*map(task.agreement, texts, rows[task.label]), strict=True))
    sums = mean_sums({"exact_match": 100 * exact, "f1": 100 * f1})
    return Judged(confidence, owner, given, exact > 0, (confidence - exact) ** 2, sums)


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


JUDGES: dict[str, Callable[[Any, Any, Any, Predictions, bool], Judged]] = {
    "classification": judge_labels,
    "multi-label": judge_label_sets,
    "ner": judge_tags,
    "qa": judge_spans,
}


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
            f"{coverage:g}": _measure_answer_sets(candidates, sets.threshold(coverage), examples.labelled)
            for coverage in sets.coverages
        }
    probabilities, known = judged.probabilities, judged.known
    if examples.task_name == "ner":
        probabilities, known = _found_entities(examples, inputs, predictions)
    if probabilities is None:
        return {}
    several = examples.task_name == "multi-label"
    return {
        f"{coverage:g}": _measure_label_sets(sets, probabilities, known, coverage, several)
        for coverage in sets.coverages
    }


def _measure_label_sets(
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


def _found_entities(
    examples: Examples, inputs: Any, predictions: Predictions
) -> tuple[np.ndarray | None, np.ndarray | None]:
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


def _measure_answer_sets(
    candidates: list[list[tuple[float, str, bool]]], threshold: float, labelled: bool
) -> dict[str, float]:
    covered, sizes = zip(*(in_set(each, threshold) for each in candidates), strict=True)
    size = {"size": float(np.mean(sizes))}
    return {"coverage": float(np.mean(covered)), **size} if labelled else size
