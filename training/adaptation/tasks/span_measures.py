"""Precision, recall and F1 of exact spans with their labels, and the threshold that is best for their F1."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import harmonic_mean

# Text, first word, last word and label.
Span = tuple[int, int, int, int]
Scored = Sequence[tuple[Span, float]]
THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))


def measured(spans: Scored, truth: set[Span], threshold: float) -> dict[str, float]:
    """Return the precision, recall and F1 of the spans above a threshold.

    Spans must not displace spans with a higher probability, so that fewer remain at a higher threshold.
    """
    kept = {span for span, score in spans if score > threshold}
    right = len(kept & truth)
    return {
        "precision": right / max(len(kept), 1),
        "recall": right / max(len(truth), 1),
        "f1": 2 * right / max(len(kept) + len(truth), 1),
    }


def best_threshold(*groups: tuple[Scored, set[Span]]) -> float:
    """Return the threshold with the best harmonic mean of the F1 of groups of labels, each with its spans and truth.

    Of several, it is the one nearest to 0.5.
    """

    def quality(threshold: float) -> tuple[float, float]:
        f1s = [measured(spans, truth, threshold)["f1"] for spans, truth in groups]
        return harmonic_mean(f1s), -abs(threshold - 0.5)

    return max(THRESHOLDS, key=quality)


def by_label(spans: Scored, truth: set[Span], threshold: float, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the measures and the number of true spans of each label that occurs in either."""
    found: dict[str, dict[str, float]] = {}
    for number, name in enumerate(names):
        own = [each for each in spans if each[0][3] == number and each[1] > threshold]
        true = {span for span in truth if span[3] == number}
        if own or true:
            found[name] = {**measured(own, true, threshold), "entities": len(true)}
    return found
