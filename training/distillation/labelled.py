"""Compares a student with its teacher on labelled texts, `--test_file`.

Shapes: N texts, D channels, C labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...command_line import UsageError
from ...data.corpus_files import find_files
from ...data.text_files import TextFormat
from ...evaluation.tasks.columns import check_columns, label_of, label_text
from ...evaluation.tasks.example_arguments import ExampleFiles
from ...inference.corpora.results import Computation
from .arguments import DistillationTexts
from .objectives import (
    LabelObjective,
    Objective,
    ScoreObjective,
    SimilarityObjective,
    VectorObjective,
    VectorOutputs,
    correlation,
)
from .teacher_outputs import outputs_of

_FOLDS = 5


@dataclass(frozen=True)
class LabelledTexts:
    """Texts with labels.

    Attributes:
        columns: The texts, or the first and the second texts of pairs.
        labels: The label of each, or its number.
        metric: The name of the metric.
        score: Takes the outputs (N, …) of a model and the labels, and returns the metric.
    """

    columns: list[list[str]]
    labels: list[Any]
    metric: str
    score: Callable[[np.ndarray, list[Any]], float]

    def score_of(self, computation: Computation) -> float:
        """Return the metric of a model."""
        tokens = computation.tokenize(self.columns)
        return self.score(outputs_of(computation, tokens), self.labels)


def read_labelled(texts: DistillationTexts, objective: Objective, names: Sequence[str]) -> LabelledTexts | None:
    """Read `--test_file`, and return None without one.

    Args:
        texts: The options that name the file and its columns.
        objective: What the student learns.
        names: The names of the labels of the teacher.

    Raises:
        UsageError: If the file cannot be read, or its labels do not fit the teacher.
    """
    if texts.test_file is None:
        return None
    named = f"--test_file {texts.test_file}"
    found = find_files(texts.test_file, "test_file")
    if found is None or found[0] == "text":
        raise UsageError(f"{named} must be a CSV, TSV, JSON, Parquet or Arrow file, with named columns.")
    if type(objective) not in _METRICS:
        raise UsageError(
            f"{named} needs a sentence encoder, a cross-encoder or a classifier with one label for a text."
        )
    rows = ExampleFiles(named, *found, TextFormat(texts.encoding, texts.delimiter)).load()
    columns = {"text_column": texts.text_column, "text_pair_column": texts.text_pair_column}
    check_columns({"test": rows}, {**columns, "label_column": texts.label_column})
    metric, score, read = _METRICS[type(objective)]
    labels = [
        read(label, names, f"{named}, --label_column {texts.label_column}:") for label in rows[texts.label_column]
    ]
    counts = Counter(labels)
    if isinstance(objective, VectorOutputs) and (len(counts) < 2 or min(counts.values()) < _FOLDS):
        raise UsageError(f"{named} must have at least two labels, and {_FOLDS} texts of each.")
    read_columns = [[text or "" for text in rows[column]] for column in columns.values() if column is not None]
    return LabelledTexts(read_columns, labels, metric, lambda outputs, given: score(outputs, given))


def _name(label: Any, names: Sequence[str], place: str) -> str:
    return str(label_text(label))


def _number_of(label: Any, names: Sequence[str], place: str) -> int:
    if (text := label_of(label, names)) not in names:
        raise UsageError(f"{place} {text!r} is not a label of the teacher, which has {', '.join(names)}.")
    return list(names).index(text)


def _number(label: Any, names: Sequence[str], place: str) -> float:
    try:
        return float(label)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{place} must contain numbers, got {label!r}.") from error


def _probe(vectors: np.ndarray, labels: list[Any]) -> float:
    """Return the cross-validated accuracy of a linear classifier of vectors (N, D)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score

    return float(cross_val_score(LogisticRegression(max_iter=1000), vectors, labels, cv=_FOLDS).mean())


def _accuracy(logits: np.ndarray, labels: list[Any]) -> float:
    return float((logits.argmax(1) == labels).mean())


def _correlation(scores: np.ndarray, labels: list[Any]) -> float:
    return correlation(scores[:, 0], np.array(labels))


# The metric of each objective, how it is computed, and how labels are read.
_METRICS: dict[type[Any], tuple[str, Any, Any]] = {
    VectorObjective: (_PROBED := ("accuracy of a linear classifier", _probe, _name)),
    SimilarityObjective: _PROBED,
    LabelObjective: ("accuracy", _accuracy, _number_of),
    ScoreObjective: ("correlation with the labels", _correlation, _number),
}
