"""Finds examples whose labels are probably wrong, by the scores of models that were not trained on them.

Confident learning (Northcutt et al., 2021, arXiv:1911.00068) counts the labels that contradict confident scores. Where
a model is often wrong itself, most of what it names is right. Here, a label is either drawn from the probabilities of
the model at some temperature or, in a share of the examples, one of the other labels (the symmetric noise of Mnih and
Hinton, 2012). The temperature and the share with the highest likelihood say how probable it is for each example that
its label is wrong. The more often a model is wrong, the higher is the temperature, and the fewer labels look wrong.
`benchmarks/wrong_labels.py` compares both.

Shapes: N examples, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..command_line.counts import counted
from ..data.text_files import csv_text
from .metrics import log_softmax

Array = npt.NDArray[np.float64]
Classes = npt.NDArray[np.integer[Any]]

FILE = "suspicious_labels.csv"
_COLUMNS = ("place", "text", "label", "suggested_label", "wrong", "label_score", "suggested_score")
# How much more likely, in nats, the labels must be with wrong ones among them than without: p = 0.05.
_LEAST_GAIN = 1.35
# With 32 examples, most of those named were right.
_LEAST_EXAMPLES = 48
# An estimate above it means that the scores say nothing about the labels.
_MOST_WRONG = 0.4
# The expected share of wrong labels among those that are named, and the least probability of each.
_PRECISION, _LEAST_WRONG = 0.75, 1 / 3
_TEMPERATURES = np.geomspace(0.05, 20, 61)
_STEPS = 50
# Characters of a text in a sentence.
_SHOWN = 60


@dataclass(frozen=True)
class LabelError:
    """An example whose label is probably wrong.

    Attributes:
        index: The number of the example, from 0.
        text: Its text.
        label: Its label.
        suggested: The label that the models give.
        wrong: The probability that the label is wrong.
        label_score: The probability of the label by the models.
        suggested_score: The probability of the suggested label.
        place: Where the example is, such as "line 3 of train.csv".
    """

    index: int
    text: str
    label: str
    suggested: str
    wrong: float
    label_score: float
    suggested_score: float
    place: str = ""


@dataclass(frozen=True)
class LabelErrors:
    """The labels of examples that are probably wrong.

    Attributes:
        examples: The number of examples.
        share: The estimated share of wrong labels, including those that cannot be named; 0 if there may be none, or too
            little is known.
        found: The examples whose labels are probably wrong, the most suspicious first: at most so many that three of
            four are expected to be wrong.
    """

    examples: int
    share: float = 0.0
    found: list[LabelError] = field(default_factory=list)

    def __str__(self) -> str:
        """Say how many labels look wrong, empty if none does."""
        if not self.found:
            return ""
        first, verb = self.found[0], "looks" if len(self.found) == 1 else "look"
        text = first.text if len(first.text) <= _SHOWN else f"{first.text[:_SHOWN]}…"
        return (
            f"{len(self.found):,} of {counted(self.examples, 'label')} {verb} wrong, first of all {first.label} "
            f"instead of {first.suggested} for {text!r}."
        )

    def at(self, places: Mapping[int, str]) -> LabelErrors:
        """Return the same with the place of each example, by its number."""
        return replace(self, found=[replace(each, place=places[each.index]) for each in self.found])


def find_label_errors(
    logits: Sequence[Array], known: Classes, labels: Sequence[str], texts: Sequence[str]
) -> LabelErrors:
    """Find the examples whose labels are probably wrong.

    Args:
        logits: For each of one or more models, (N, C) those of the examples, on which it was not trained. They need not
            be calibrated.
        known: (N,) the classes of the examples.
        labels: The names of the classes.
        texts: The texts of the examples.
    """
    if len(known) < _LEAST_EXAMPLES:
        return LabelErrors(len(known))
    # What several models agree on is the sum of their log probabilities.
    views = [log_softmax(each / _best_fit(each, known)[0]) for each in (np.asarray(one, np.float64) for one in logits)]
    total = np.sum(views, axis=0)
    temperature, share, gain = _best_fit(total, known)
    if gain < _LEAST_GAIN or share >= _MOST_WRONG:
        return LabelErrors(len(known))
    probabilities = np.exp(log_softmax(total / temperature))
    of_labels = probabilities[np.arange(len(known)), known]
    wrong, best = _wrong(of_labels, share, total.shape[1]), probabilities.argmax(1)
    order = np.argsort(-wrong, kind="stable")
    expected = wrong[order].cumsum() / np.arange(1, len(order) + 1)
    found = [
        LabelError(
            int(index),
            texts[index],
            labels[known[index]],
            labels[best[index]],
            float(wrong[index]),
            float(of_labels[index]),
            float(probabilities[index, best[index]]),
        )
        for index in order[: int((expected >= _PRECISION).sum())]
        if wrong[index] > _LEAST_WRONG and best[index] != known[index]
    ]
    return LabelErrors(len(known), share, found)


def as_csv(found: LabelErrors) -> str:
    """Return a table of the examples, the most suspicious first."""
    rows = []
    for each in found.found:
        scores = (f"{score:.3f}" for score in (each.wrong, each.label_score, each.suggested_score))
        rows.append((each.place, each.text, each.label, each.suggested, *scores))
    return csv_text(_COLUMNS, [dict(zip(_COLUMNS, row, strict=True)) for row in rows])


def _best_fit(logits: Array, known: Classes) -> tuple[float, float, float]:
    """Return the likeliest temperature and share of wrong labels, and the gain over no wrong labels in nats."""
    rows, classes = np.arange(len(known)), logits.shape[1]
    none = best = -np.inf
    temperature, share = 1.0, 0.0
    for each in _TEMPERATURES:
        of_labels = np.exp(log_softmax(logits / each)[rows, known])
        found = 0.1
        for _ in range(_STEPS):
            found = min(float(_wrong(of_labels, found, classes).mean()), _MOST_WRONG)
        likelihood = _log_likelihood(of_labels, found, classes)
        none = max(none, _log_likelihood(of_labels, 0.0, classes))
        if likelihood > best:
            best, temperature, share = likelihood, float(each), found
    return temperature, share, best - none


def _log_likelihood(of_labels: Array, share: float, classes: int) -> float:
    replaced = share * (1 - of_labels) / max(classes - 1, 1)
    return float(np.log((1 - share) * of_labels + replaced + 1e-300).sum())


def _wrong(of_labels: Array, share: float, classes: int) -> Array:
    """Return the probability that each label is wrong, from those of the labels by the model, (N,)."""
    replaced = share * (1 - of_labels) / max(classes - 1, 1)
    return np.asarray(replaced / np.maximum(replaced + (1 - share) * of_labels, 1e-300))
