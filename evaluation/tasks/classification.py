"""Classification of texts or text pairs with one label or several, and regression.

Shapes: N examples, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...command_line import UsageError
from .columns import (
    check_columns,
    check_texts,
    check_values,
    check_varies,
    is_missing,
    is_number,
    label_names,
    label_of,
    named,
    with_numbers,
)
from .task import TUNINGS_OF_TEXTS, Examples, HeadTask, Metrics, tokenised

if TYPE_CHECKING:
    from transformers import EvalPrediction, PreTrainedTokenizerBase

# Ratings from 0 to 10 in halves may be classes. More distinct fractions are a scale.
_MAX_FRACTIONAL_CLASSES = 21
# This few classes are allowed even with one example each.
_MIN_CLASS_LIMIT = 10


class Classification(HeadTask):
    """Classification with one label per text. Labels may have any type."""

    auto_class = "AutoModelForSequenceClassification"
    peft_task = "SEQ_CLS"
    best_metric: ClassVar[str | None] = "accuracy"
    metric_names: ClassVar[tuple[str, ...]] = ("accuracy", "f1", "matthews_correlation")
    tunings = TUNINGS_OF_TEXTS
    libraries: ClassVar[tuple[str, ...]] = ("sklearn", "matplotlib")
    problem_type = "single_label_classification"

    def read(self, examples: Examples, known: list[str] | None = None) -> dict[str, Any]:
        """See `HeadTask`."""
        data = self.data
        self.text, self.pair = data.text_column or "text", data.text_pair_column
        self.label = data.label_column or self.label_column
        self.texts = (self.text, self.pair) if self.pair else (self.text,)
        columns = {"text_column": self.text, "text_pair_column": self.pair, "label_column": self.label}
        check_columns(examples, columns)
        check_texts(data, examples, "text_column", self.text)
        check_texts(data, examples, "text_pair_column", self.pair)
        examples = {split: named(rows, self.label, known) for split, rows in examples.items()}
        self.label_fields = {"problem_type": self.problem_type}
        # The rows of these examples, none of which is left out yet.
        self.data.kept_rows = None
        return self._read_labels(examples, known)

    def _read_labels(self, examples: Examples, known: list[str] | None) -> dict[str, Any]:
        labelled = self._labelled(examples, _is_label, "a label in every row")
        if known is None:
            _check_classes(self.label, list(labelled["train"][self.label]))
        self._set_labels(label_names(self.data, labelled, self.label, lambda label: [label], known))
        return labelled

    def _labelled(self, examples: Examples, is_allowed: Callable[[Any], bool], allowed: str) -> dict[str, Any]:
        """Check the labels, and leave out training examples that have none yet, if the command allows that."""
        found = dict(examples)
        if self.data.may_lack_labels and "train" in examples:
            cells = examples["train"][self.label]
            if missing := sum(map(is_missing, cells)):
                print(
                    f"{missing:,} of the {len(cells):,} training examples {'has' if missing == 1 else 'have'} no label "
                    f"yet (--label_column {self.label}), and {'is' if missing == 1 else 'are'} left out."
                )
                train = {"train": found["train"]}
                check_values(
                    self.data, train, "label_column", self.label, lambda x: is_missing(x) or is_allowed(x), allowed
                )
                # From here on, errors name the lines of the rows that are left.
                self.data.kept_rows = [row for row, cell in enumerate(cells) if not is_missing(cell)]
                found["train"] = found["train"].select(self.data.kept_rows)
                if missing == len(cells):
                    raise UsageError(f"--label_column {self.label} is empty in all training examples.")
        check_values(self.data, found, "label_column", self.label, is_allowed, allowed)
        return found

    def _target(self, value: Any) -> Any:
        """Convert the label of a row to the model's target."""
        return self.label_fields["label2id"][label_of(value, self.labels)]

    def encode(self, rows: Any, tokenizer: PreTrainedTokenizerBase) -> Any:
        """See `HeadTask`. The inputs are the tokenizer's outputs and `labels`."""

        def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
            pairs = batch[self.pair] if self.pair else None
            encoded = dict(self.cut.tokenise(tokenizer, self.max_length, batch[self.text], pairs))
            return {**encoded, "labels": [self._target(value) for value in batch[self.label]]}

        return tokenised(rows, encode)

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Any:
        """See `HeadTask`."""
        from transformers import DataCollatorWithPadding

        return DataCollatorWithPadding(tokenizer)

    def metrics(self, rows: Any, inputs: Any) -> Metrics:
        """Return a function that computes accuracy, macro F1 and the Matthews correlation."""
        return single_label_metrics

    def answers(self, rows: Any, inputs: Any, found: EvalPrediction) -> list[Any]:
        """See `HeadTask`. The answer is a label."""
        return [self.labels[index] for index in logits_of(found).argmax(-1)]

    def constant(self, train: Any, inputs: Any) -> EvalPrediction | None:
        """See `HeadTask`. The constant answer is the most frequent label."""
        return repeat_logits(majority_logits(train["labels"], len(self.labels)), inputs["labels"])

    def confusion(self, found: EvalPrediction) -> list[list[int]] | None:
        """See `HeadTask`."""
        from sklearn.metrics import confusion_matrix

        predicted, known = logits_of(found).argmax(-1), np.asarray(found.label_ids)
        return confusion_matrix(known, predicted, labels=range(len(self.labels))).tolist()


class MultiLabel(Classification):
    """Classification with any number of labels per text, given as lists or as names with a separator."""

    best_metric = "f1"
    metric_names = ("f1", "f1_macro", "accuracy")
    libraries = ("sklearn",)
    problem_type = "multi_label_classification"
    label_column = "labels"

    def _read_labels(self, examples: Examples, known: list[str] | None) -> dict[str, Any]:
        allowed = f"labels: lists of names, or names separated by {self.data.label_separator!r}"
        check_values(self.data, examples, "label_column", self.label, _is_labels, allowed)
        for rows in examples.values():
            sizes = {len(cell) if isinstance(cell, list) else 0 for cell in rows[self.label]}
            if sizes == {max(sizes)} and max(sizes) > 1 and {x for cell in rows[self.label] for x in cell} <= {0, 1}:
                raise UsageError(
                    f"--label_column {self.label} must contain the names of a text's labels, got a 0 or 1 for "
                    "each label."
                )
        self._set_labels(label_names(self.data, examples, self.label, self._split, known))
        return dict(examples)

    def _split(self, cell: Any) -> Iterable[Any]:
        if isinstance(cell, str):
            return [name for part in cell.split(self.data.label_separator) if (name := part.strip())]
        # Like an empty cell of CSV, null means no labels.
        return [] if cell is None else cell if isinstance(cell, list) else [cell]

    def _target(self, value: Any) -> Any:
        target = [0.0] * len(self.labels)
        for name in self._split(value):
            target[self.label_fields["label2id"][label_of(name, self.labels)]] = 1.0
        return target

    def metrics(self, rows: Any, inputs: Any) -> Metrics:
        """Return a function that computes micro F1, macro F1, and the share of texts with all labels right."""
        return multi_label_metrics

    def answers(self, rows: Any, inputs: Any, found: EvalPrediction) -> list[Any]:
        """See `HeadTask`. The answer is a list of labels."""
        return [[self.labels[index] for index in np.flatnonzero(row > 0)] for row in logits_of(found)]

    def constant(self, train: Any, inputs: Any) -> EvalPrediction | None:
        """See `HeadTask`. The constant answer has the labels of more than half of the training examples."""
        return repeat_logits(np.asarray(list(train["labels"])).mean(0) - 0.5, inputs["labels"])

    def confusion(self, found: EvalPrediction) -> list[list[int]] | None:
        """See `HeadTask`. With several labels per text, there is no confusion matrix."""
        return None


class Regression(Classification):
    """Regression of one number per text."""

    best_metric = "spearman"
    metric_names = ("pearson", "spearman", "rmse")
    libraries = ("scipy", "sklearn")
    problem_type = "regression"

    def _read_labels(self, examples: Examples, known: list[str] | None) -> dict[str, Any]:
        examples = with_numbers(self.data, self._labelled(examples, is_number, "a number in every row"), self.label)
        if known is None:
            check_varies(examples, self.label)
        self._set_labels(known or [self.label])
        return examples

    def _target(self, value: Any) -> Any:
        return float(value)

    def metrics(self, rows: Any, inputs: Any) -> Metrics:
        """Return a function that computes the Pearson and Spearman correlations and the RMSE."""
        return regression_metrics

    def answers(self, rows: Any, inputs: Any, found: EvalPrediction) -> list[Any]:
        """See `HeadTask`. The answer is a number."""
        return logits_of(found).reshape(-1).tolist()

    def constant(self, train: Any, inputs: Any) -> EvalPrediction | None:
        """See `HeadTask`. The constant answer is the mean of the training labels."""
        return repeat_logits(np.asarray(list(train["labels"])).mean(keepdims=True), inputs["labels"])

    def confusion(self, found: EvalPrediction) -> list[list[int]] | None:
        """See `HeadTask`. There are no classes to confuse."""
        return None


def _check_classes(column: str, labels: list[Any]) -> None:
    """Check that labels are classes: not numbers on a scale, and not almost unique to each text."""
    classes = set(labels)
    numbers = all(isinstance(label, int | float) for label in classes)
    fractional = any(isinstance(label, float) and not label.is_integer() for label in classes)
    half = len(labels) / 2
    if len(classes) > (max(2, min(half, _MAX_FRACTIONAL_CLASSES)) if fractional else max(half, _MIN_CLASS_LIMIT)):
        remedy = "predict numbers with --task regression" if numbers else "choose another --label_column"
        raise UsageError(
            f"--label_column {column} has {len(classes)} different labels in {len(labels)} training examples, such as "
            f"{labels[0]!r}; --task classification would learn a class for each of them. Instead, {remedy}."
        )


def single_label_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Compute the metrics of `Classification` from logits (N, C) and labels (N,)."""
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    predicted, labels = logits_of(prediction).argmax(-1), np.asarray(prediction.label_ids)
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "f1": float(f1_score(labels, predicted, average="macro", zero_division=0)),
        "matthews_correlation": float(matthews_corrcoef(labels, predicted)),
    }


def multi_label_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Compute the metrics of `MultiLabel` from logits and labels (N, C)."""
    from sklearn.metrics import accuracy_score, f1_score

    predicted, labels = logits_of(prediction) > 0, np.asarray(prediction.label_ids) > 0.5
    return {
        "f1": float(f1_score(labels, predicted, average="micro", zero_division=0)),
        "f1_macro": float(f1_score(labels, predicted, average="macro", zero_division=0)),
        "accuracy": float(accuracy_score(labels, predicted)),
    }


def regression_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Compute the metrics of `Regression` from logits (N, 1) and labels (N,)."""
    from scipy.stats import pearsonr, spearmanr

    predicted, labels = logits_of(prediction).reshape(-1), np.asarray(prediction.label_ids).reshape(-1)
    constant = len(set(predicted.tolist())) < 2 or len(set(labels.tolist())) < 2
    return {
        "pearson": 0.0 if constant else float(pearsonr(predicted, labels).statistic),
        "spearman": 0.0 if constant else float(spearmanr(predicted, labels).statistic),
        "rmse": float(np.sqrt(np.mean((predicted - labels) ** 2))),
    }


def logits_of(prediction: EvalPrediction) -> Any:
    """Return the logits, which are the only or the first prediction."""
    logits = prediction.predictions
    return np.asarray(logits[0] if isinstance(logits, tuple) else logits)


def majority_logits(labels: Iterable[int], count: int) -> Any:
    """Return logits (C,) that select the most frequent label."""
    return np.eye(count)[np.bincount(np.asarray(list(labels), dtype=np.int64), minlength=count).argmax()]


def repeat_logits(logits: Any, labels: Iterable[Any]) -> EvalPrediction:
    """Pair the same logits (C,) with all labels (N,) or (N, C)."""
    from transformers import EvalPrediction

    known = np.asarray(list(labels))
    return EvalPrediction(np.broadcast_to(logits, (len(known), len(logits))), known)


def _is_labels(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(name, str | int) for name in value)
    if value is None or (isinstance(value, str) and not value.strip()):
        return True
    # A string that starts with a bracket is a list that was written to CSV.
    return _is_label(value) and not str(value).startswith("[")


def _is_label(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value.strip())
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
