"""Evaluates a model on the texts of several files, and compares them with those at home."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..command_line import UsageError
from ..command_line.extras import require
from ..command_line.progress import Progress, counted_by
from ..modeling.calibration.calibration import calibration_of
from .calibration.calibrating import labels_of
from .cascade import TwoAnswers
from .examples import Examples, read_examples, task_of
from .findings import FileEvaluation, Findings
from .judging import JUDGES, Judged, measure_sets
from .label_errors import find_label_errors
from .metrics import auroc, confidence_sums, reliability, risk_coverage, share_sums
from .predicting import Predictions, predict
from .report import as_text, save_report
from .shift.estimates import estimates_of
from .shift.label_correction import has_label_bias, helpful_matching, matched_answers
from .shift.label_shift import corrected_probabilities, label_shift
from .shift.shift import input_shift
from .tasks.example_arguments import ExampleArguments

# Its logarithm is finite.
_TINY = 1e-30


@dataclass(frozen=True)
class Answered:
    """The inputs of the texts of a file, what a model says about them, its answers, and how long that took."""

    inputs: Any
    predictions: Predictions
    judged: Judged
    seconds: float


class Evaluation(Findings):
    """The evaluation of a model on several files, the first of which is home. See `Findings` for its attributes."""

    def __str__(self) -> str:
        """Return a table for the console, and what helps."""
        return as_text(self)

    def save(self, folder: Any, overwrite: bool = False) -> None:
        """Write `evaluation.json`, `report.html` and, if labels look wrong, `suspicious_labels.csv` into a folder.

        Args:
            folder: The folder.
            overwrite: Whether to replace an earlier report in it.

        Raises:
            FileExistsError: If the folder has a report and `overwrite` is not set.
        """
        save_report(self, folder, overwrite)


def evaluate(
    model: Any,
    tokenizer: Any,
    examples: Mapping[str, Any],
    *,
    also: Sequence[tuple[Any, Any]] = (),
    then: tuple[Any, Any] | None = None,
    columns: ExampleArguments | None = None,
    max_length: int | None = None,
    bootstrap_samples: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Evaluate a model on files, and compare each with the first one.

    Args:
        model: A model for classification with one label or several, entities, or question answering.
        tokenizer: Its tokenizer.
        examples: The rows of each file by its name, the first of which is home: lists of dictionaries or
            `datasets.Dataset`s, with the columns that `sequence-encoder adapt` reads. A file may lack labels.
        also: Other models for the same task with their tokenizers, such as those of other seeds, for the agreement.
        then: A larger classifier with the same labels and its tokenizer, for texts that the model is not sure of.
        columns: The names of the columns.
        max_length: The number of tokens to truncate texts to; by default the limit of the model.
        bootstrap_samples: The number of bootstrap samples for intervals.
        seed: The seed of the bootstrap and of the classifiers.

    Returns:
        What was found out about each file.

    Raises:
        MissingLibraryError: If scikit-learn, scipy or datasets is not installed.
        ValueError: If the model or the examples cannot be evaluated. This is found before anything is computed.
    """
    require("evaluate", "datasets", "scipy", "sklearn", extra="adapt")
    if bootstrap_samples < 1:
        raise UsageError(f"bootstrap_samples must be at least 1, got {bootstrap_samples}.")
    task_name, labels = task_of(model), labels_of(model)
    if then is not None and task_name != "classification":
        raise UsageError(f"a larger model (then) needs classifiers with one label per text, got the task {task_name}.")
    for other, _ in (*also, *([] if then is None else [then])):
        if task_of(other) != task_name or labels_of(other) != labels:
            raise UsageError(
                f"the other models must have the task {task_name} and the labels {', '.join(labels)}, in this order, "
                f"got {task_of(other)} with {', '.join(labels_of(other))}."
            )
    read = read_examples(task_name, labels, examples, columns)
    if then is not None and not read[0].labelled:
        raise UsageError(f"a larger model (then) needs labels in the first file, and {read[0].name} has none.")
    mine, *others = ([answers_of(each, *pair, max_length) for each in read] for pair in ((model, tokenizer), *also))
    indices = counted_by(Progress("Comparing the files", len(read), "file"), range(len(read)))
    files = [_evaluate_file(model, read, mine, others, index, bootstrap_samples, seed) for index in indices]
    if then is not None:
        files = _with_cascades(files, mine, [answers_of(each, *then, max_length) for each in read])
    return Evaluation(_name_of(model), task_name, labels, files, seed, then="" if then is None else _name_of(then[0]))


def _name_of(model: Any) -> str:
    return str(getattr(model.config, "_name_or_path", "") or type(model).__name__)


def _with_cascades(files: list[FileEvaluation], small: list[Answered], large: list[Answered]) -> list[FileEvaluation]:
    """Add what a larger model adds to each file, with the threshold that the first file chooses."""
    both = [
        None
        if one.judged.correct is None or other.judged.correct is None
        else TwoAnswers(one.judged.confidence, one.judged.correct, other.judged.correct, (one.seconds, other.seconds))
        for one, other in zip(small, large, strict=True)
    ]
    below = None if both[0] is None else both[0].threshold()
    return [
        each if answers is None else replace(each, cascade=answers.cascade(below))
        for each, answers in zip(files, both, strict=True)
    ]


def answers_of(examples: Examples, model: Any, tokenizer: Any, max_length: int | None) -> Answered:
    """Return what a model says about the texts of a file, and its answers. Without a length, the model limits it."""
    started = time.perf_counter()
    inputs = examples.encode(model, tokenizer, max_length)
    predictions = predict(model, tokenizer, inputs, f"texts of {examples.name}")
    seconds = time.perf_counter() - started
    judge = JUDGES[examples.task_name]
    judged = judge(examples.task, examples.rows, inputs, predictions, examples.labelled)
    return Answered(inputs, predictions, judged, seconds)


def _evaluate_file(
    model: Any,
    read: list[Examples],
    mine: list[Answered],
    others: list[list[Answered]],
    index: int,
    samples: int,
    seed: int,
) -> FileEvaluation:
    examples, judged = read[index], mine[index].judged
    found: dict[str, Any] = {"confidence": float(judged.confidence.mean())}
    if judged.correct is not None:
        found |= _with_labels(judged, samples, seed)
    calibration = calibration_of(model)
    if calibration is not None and calibration.sets is not None:
        found["sets"] = measure_sets(calibration.sets, examples, mine[index].inputs, mine[index].predictions, judged)
    if judged.known is not None and judged.known.ndim == 1:
        counts = np.bincount(judged.known, minlength=len(examples.task.labels))
        found["label_shares"] = (counts / examples.size).tolist()
        # On texts that have shifted, what looks like a wrong label is more often a mistake of the model.
        if not index and judged.probabilities is not None:
            logits = np.log(np.maximum(judged.probabilities, _TINY))
            errors = find_label_errors([logits], judged.known, examples.task.labels, examples.texts)
            found["label_errors"] = errors.at(examples.places([each.index for each in errors.found]))
    if index:
        home = mine[0]
        found |= _away_from_home(model, read[0], examples, home, mine[index], samples, seed)
        if home.judged.correct is not None:
            pairs = [(each[0].judged, each[index].judged) for each in others]
            found["estimates"] = estimates_of(home.judged, judged, pairs, seed)
    return FileEvaluation(examples.name, examples.size, examples.labelled, **found)


def _with_labels(judged: Judged, samples: int, seed: int) -> dict[str, Any]:
    """Return the metrics that need labels."""
    assert judged.correct is not None
    assert judged.brier is not None
    assert judged.sums is not None
    correct = judged.correct.astype(np.float64)
    confidences = confidence_sums(judged.confidence, correct, judged.brier, judged.owner)
    area, curve = risk_coverage(judged.confidence, correct)
    return {
        "metrics": {**judged.sums.estimates(samples, seed), **confidences.estimates(samples, seed)},
        "right": share_sums(correct, judged.owner).estimates(samples, seed)["right"],
        "risk_coverage_area": area,
        "risk_coverage": curve,
        "reliability": reliability(judged.confidence, correct),
    }


def _away_from_home(
    model: Any, read: Examples, examples: Examples, home: Answered, away: Answered, samples: int, seed: int
) -> dict[str, Any]:
    """Return what the comparison of a file with home says."""
    found: dict[str, Any] = {
        "confidence_auroc": auroc(-home.judged.confidence_of_texts(), -away.judged.confidence_of_texts()),
        "input_shift": input_shift(
            home.predictions.vectors, away.predictions.vectors, read.texts, examples.texts, seed
        ),
    }
    if home.predictions.p_values is not None and away.predictions.p_values is not None:
        found["unfamiliarity_auroc"] = auroc(-home.predictions.p_values, -away.predictions.p_values)
    known, before, there = home.judged.known, home.judged.probabilities, away.judged.probabilities
    if known is not None and known.ndim == 1 and before is not None and there is not None:
        shift = label_shift(before, known, there, samples, seed)
        found["label_shift"] = shift
        if has_label_bias(model):
            found["matching"] = helpful_matching(there, away.judged.known, shift)
        if away.judged.known is not None:
            shares = np.array(shift.maximum_likelihood)
            corrected = corrected_probabilities(there, np.array(shift.home), shares)
            found["corrected_accuracy"] = float((corrected.argmax(1) == away.judged.known).mean())
            matched = matched_answers(there, np.array(shift.home))
            found["matched_accuracy"] = float((matched == away.judged.known).mean())
    return found
