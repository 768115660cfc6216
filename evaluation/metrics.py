"""Metrics of tasks, confidences and label sets, with bootstrap intervals.

Each metric is a function of sums over the texts, so that a bootstrap sample is a product of matrices.

Shapes: N texts, U answers (a text may have several, such as the tags of its words), C classes, K sums, R samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Combine = Callable[[np.ndarray], dict[str, np.ndarray]]
# Bins of the expected calibration error (Guo et al., 2017) and of the reliability diagram.
BINS = 15
_SAMPLES_AT_ONCE = 100


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval.

    Attributes:
        value: The value.
        low: The lower end of the interval.
        high: The upper end of the interval.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return the value and the interval with three digits."""
        return f"{self.value:.3f} ({self.low:.3f}–{self.high:.3f})"  # noqa: RUF001 (a range)


@dataclass(frozen=True)
class Sums:
    """Metrics that are functions of sums over texts.

    Attributes:
        terms: (N, K) what each text adds to the sums.
        combine: Computes metrics, each (R,), from sums (R, K).
        too_high: The metrics that are too high for few texts, and higher still for bootstrap samples of them. Their
            intervals are reflected at the value (basic bootstrap).
    """

    terms: np.ndarray
    combine: Combine
    too_high: frozenset[str] = frozenset()

    def values(self) -> dict[str, float]:
        """Return the metrics of all texts."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return {name: float(found[0]) for name, found in self.combine(self.terms.sum(0)[None]).items()}

    def estimates(self, samples: int, seed: int) -> dict[str, Estimate]:
        """Return the metrics with the intervals of a bootstrap over texts.

        Args:
            samples: The number of bootstrap samples.
            seed: The seed of the random numbers.
        """
        found: dict[str, list[np.ndarray]] = {}
        texts = len(self.terms)
        generator = np.random.default_rng(seed)
        with np.errstate(divide="ignore", invalid="ignore"):
            for start in range(0, samples, _SAMPLES_AT_ONCE):
                count = min(_SAMPLES_AT_ONCE, samples - start)
                times = generator.multinomial(texts, np.full(texts, 1 / texts), size=count).astype(np.float64)
                for name, values in self.combine(times @ self.terms).items():
                    found.setdefault(name, []).append(values)
        estimates = {}
        for name, value in self.values().items():
            low, high = map(float, np.nanquantile(np.concatenate(found[name]), (0.025, 0.975)))
            if name in self.too_high:
                low, high = max(0.0, 2 * value - high), max(value, 2 * value - low)
            estimates[name] = Estimate(value, low, high)
        return estimates


def classification_sums(predicted: np.ndarray, known: np.ndarray, classes: int) -> Sums:
    """Return accuracy, macro F1 and the Matthews correlation of labels (N,)."""
    eye = np.eye(classes)
    right = eye[known] * (predicted == known)[:, None]

    def combine(sums: np.ndarray) -> dict[str, np.ndarray]:
        hits, found, true = np.split(sums, 3, axis=1)
        total, correct = true.sum(1), hits.sum(1)
        product = (found * true).sum(1)
        spread = np.sqrt((total**2 - (found**2).sum(1)) * (total**2 - (true**2).sum(1)))
        return {
            "accuracy": correct / total,
            "f1": _macro(_f1(hits, found, true), found + true > 0),
            "matthews_correlation": np.where(spread > 0, (correct * total - product) / spread, 0.0),
        }

    return Sums(np.concatenate([right, eye[predicted], eye[known]], axis=1), combine)


def multi_label_sums(predicted: np.ndarray, known: np.ndarray) -> Sums:
    """Return micro F1, macro F1, and the share of texts with all labels right, of labels (N, C) bool."""
    exact = (predicted == known).all(1, keepdims=True)

    def combine(sums: np.ndarray) -> dict[str, np.ndarray]:
        hits, found, true = np.split(sums[:, :-2], 3, axis=1)
        return {
            "f1": _f1(hits.sum(1), found.sum(1), true.sum(1)),
            "f1_macro": _f1(hits, found, true).mean(1),
            "accuracy": sums[:, -2] / sums[:, -1],
        }

    terms = [predicted & known, predicted, known, exact, np.ones_like(exact)]
    return Sums(np.concatenate(terms, axis=1).astype(np.float64), combine)


def entity_sums(counts: np.ndarray) -> Sums:
    """Return precision, recall, F1 and accuracy.

    Args:
        counts: (N, 5) the entities that are right, found and true, and the words that are right and all.
    """

    def combine(sums: np.ndarray) -> dict[str, np.ndarray]:
        hits, found, true, right, words = sums.T
        return {
            "precision": np.where(found > 0, hits / found, 0.0),
            "recall": np.where(true > 0, hits / true, 0.0),
            "f1": _f1(hits, found, true),
            "accuracy": right / words,
        }

    return Sums(counts.astype(np.float64), combine)


def mean_sums(columns: Mapping[str, np.ndarray]) -> Sums:
    """Return the means of values (N,) of texts."""
    ones = np.ones(len(next(iter(columns.values()))))

    def combine(sums: np.ndarray) -> dict[str, np.ndarray]:
        return {name: sums[:, index] / sums[:, -1] for index, name in enumerate(columns)}

    return Sums(np.stack([*columns.values(), ones], axis=1).astype(np.float64), combine)


def share_sums(correct: np.ndarray, owner: np.ndarray) -> Sums:
    """Return the share of right answers (U,) as `right`, where `owner` (U,) is the number of the text of each."""
    terms = np.stack([np.bincount(owner, weights=correct), np.bincount(owner)], axis=1)
    return Sums(terms, lambda sums: {"right": sums[:, 0] / sums[:, 1]})


def confidence_sums(confidence: np.ndarray, correct: np.ndarray, brier: np.ndarray, owner: np.ndarray) -> Sums:
    """Return the expected calibration error and the Brier score.

    Args:
        confidence: (U,) the probability of each answer.
        correct: (U,) whether it is right.
        brier: (U,) the squared error of its probabilities.
        owner: (U,) the number of its text.
    """
    texts, places = int(owner.max()) + 1, owner * BINS + bin_of(confidence)
    gaps = np.bincount(places, weights=confidence - correct, minlength=texts * BINS).reshape(texts, BINS)
    terms = np.column_stack([gaps, np.bincount(owner, weights=brier), np.bincount(owner)])

    def combine(sums: np.ndarray) -> dict[str, np.ndarray]:
        answers = sums[:, -1]
        return {
            "expected_calibration_error": np.abs(sums[:, :BINS]).sum(1) / answers,
            "brier_score": sums[:, BINS] / answers,
        }

    return Sums(terms, combine, frozenset({"expected_calibration_error"}))


def bin_of(confidence: np.ndarray) -> np.ndarray:
    """Return the bin of equal width of each confidence."""
    return np.minimum((confidence * BINS).astype(int), BINS - 1)


def reliability(confidence: np.ndarray, correct: np.ndarray) -> list[dict[str, float]]:
    """Return the number of answers, the mean confidence and the accuracy of each bin that is not empty."""
    where = bin_of(confidence)
    return [
        {
            "answers": int((inside := where == index).sum()),
            "confidence": float(confidence[inside].mean()),
            "accuracy": float(correct[inside].mean()),
        }
        for index in np.unique(where)
    ]


def risk_coverage(confidence: np.ndarray, correct: np.ndarray) -> tuple[float, list[tuple[float, float]]]:
    """Return the area under the risk-coverage curve, and the curve at a hundred coverages or fewer.

    The risk at a coverage is the share of errors among the most confident answers. Answers of equal confidence are
    taken in any order, so each has the mean error of all of them.

    Args:
        confidence: (U,) the probability of each answer.
        correct: (U,) whether it is right.
    """
    _, group, sizes = np.unique(-confidence, return_inverse=True, return_counts=True)
    errors = (np.bincount(group, weights=1 - correct) / sizes)[np.sort(group)]
    risks = errors.cumsum() / np.arange(1, len(errors) + 1)
    places = np.unique(np.linspace(0, len(risks) - 1, 100).astype(int))
    return float(risks.mean()), [((place + 1) / len(risks), float(risks[place])) for place in places]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return the log-probabilities (N, C) of logits (N, C)."""
    shifted = logits - logits.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))


def auroc(home: np.ndarray, away: np.ndarray) -> float:
    """Return the probability that a score of `away` is higher than one of `home`, where ties count half."""
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([home, away]))
    return float((ranks[len(home) :].sum() - len(away) * (len(away) + 1) / 2) / (len(home) * len(away)))


def _f1(hits: Any, found: Any, true: Any) -> Any:
    return np.where(found + true > 0, 2 * hits / np.maximum(found + true, 1), 0.0)


def _macro(values: np.ndarray, occurs: np.ndarray) -> np.ndarray:
    return (values * occurs).sum(1) / occurs.sum(1)
