"""Tests whether texts differ from those at home, and shows the texts and words that reveal it.

Shapes: N texts at home, M texts away, D channels.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..metrics import auroc

# Number of texts, and of words, that give a shift away.
SHOWN = 8
# More texts of a file make a test slower, and hardly more powerful.
_MOST = 2000
# Strength of the penalty, as scikit-learn's C: there may be as many channels as texts.
_PENALTY = 0.01
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|[^\w\s]+", re.UNICODE)  # noqa: RUF001 (an apostrophe)
# The prior of the counts of words, in words for each file.
_PRIOR_WORDS = 500


@dataclass(frozen=True)
class InputShift:
    """Whether the texts of a file differ from those at home.

    Attributes:
        auroc: The probability that a classifier of vectors gives a text of the file a higher score than one at home.
        p_value: The probability that it would tell them apart this well if there were no shift.
        texts: The texts that are the most unlike home, with the classifier's probability, as pairs.
        home_texts: The texts at home that are the most unlike the file.
        words: The words that the file has more often than home, with the z-scores of their log odds.
        home_words: The words that home has more often.
    """

    auroc: float
    p_value: float
    texts: list[tuple[str, float]]
    home_texts: list[tuple[str, float]]
    words: list[tuple[str, float]]
    home_words: list[tuple[str, float]]


def input_shift(
    home: np.ndarray, away: np.ndarray, home_texts: Sequence[str], away_texts: Sequence[str], seed: int
) -> InputShift:
    """Test whether two sets of texts have the same distribution, with a classifier (Lopez-Paz and Oquab, 2017).

    A logistic regression on half of the vectors scores the other half, and the reverse. In each half, the ranks of the
    scores are tested (Mann and Whitney), which is exact however good the classifier is. The p-value is twice the lower
    one of the two, because the halves are not independent.

    Args:
        home: (N, D) the vectors at home.
        away: (M, D) the vectors of the file.
        home_texts: The texts at home.
        away_texts: The texts of the file.
        seed: The seed of the halves.
    """
    from scipy.stats import mannwhitneyu
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    generator = np.random.default_rng(seed)
    kept = [generator.permutation(len(each))[:_MOST] for each in (home, away)]
    vectors = np.concatenate([home[kept[0]], away[kept[1]]])
    is_away = np.repeat([False, True], [len(each) for each in kept])
    # Every second text of each file, which is a random half.
    half = np.concatenate([np.arange(len(each)) % 2 for each in kept])
    logits, p_values = np.zeros(len(vectors)), []
    for part in (0, 1):
        classifier = make_pipeline(
            StandardScaler(), LogisticRegression(C=_PENALTY, class_weight="balanced", max_iter=1000)
        )
        classifier.fit(vectors[half != part], is_away[half != part])
        inside = half == part
        logits[inside] = classifier.decision_function(vectors[inside])
        found = mannwhitneyu(logits[inside & is_away], logits[inside & ~is_away], alternative="greater")
        p_values.append(float(found.pvalue))
    words, home_words = telling_words(home_texts, away_texts)
    probabilities = 1 / (1 + np.exp(-logits))
    return InputShift(
        auroc(logits[~is_away], logits[is_away]),
        min(1.0, 2 * min(p_values)),
        _highest(probabilities[is_away], [away_texts[index] for index in kept[1]]),
        _highest(1 - probabilities[~is_away], [home_texts[index] for index in kept[0]]),
        words,
        home_words,
    )


def _highest(values: np.ndarray, texts: list[str]) -> list[tuple[str, float]]:
    found: dict[str, float] = {}
    for index in np.argsort(-values, kind="stable"):
        found.setdefault(texts[index], float(values[index]))
        if len(found) == SHOWN:
            break
    return list(found.items())


def telling_words(home: Sequence[str], away: Sequence[str]) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
    """Return the words that are the most typical of the texts away, and of those at home, with z-scores.

    The z-scores are those of log odds with a prior of the words of both (Monroe et al., 2008).
    """
    counts = [Counter(word for text in texts for word in _WORD.findall(text.casefold())) for texts in (home, away)]
    both = counts[0] + counts[1]
    if len(both) < 2:
        return [], []
    totals, everything = [sum(each.values()) for each in counts], sum(both.values())
    scores: dict[str, float] = {}
    for word, count in both.items():
        prior = _PRIOR_WORDS * count / everything
        odds = [
            math.log((each[word] + prior) / (total + _PRIOR_WORDS - each[word] - prior))
            for each, total in zip(counts, totals, strict=True)
        ]
        scores[word] = (odds[1] - odds[0]) / math.sqrt(sum(1 / (each[word] + prior) for each in counts))
    ranked = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
    return (
        [(word, score) for word, score in ranked[:SHOWN] if score > 0],
        [(word, -score) for word, score in ranked[::-1][:SHOWN] if score < 0],
    )
