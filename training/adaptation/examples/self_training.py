"""Finds the classes of texts from names or a few labels of the classes, and learns how each class is written.

The names, or a few labelled texts, label the others first, often wrongly. Expectation maximisation then alternates
between two steps (Nigam et al., 2000): it learns from the labels of all texts which tokens and which vectors a class
has, and labels the texts anew by both. It only needs the frozen vectors and the token ids of the texts, and takes
seconds.

Shapes: N texts, C classes, D channels of vectors, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ....evaluation.metrics import log_softmax

Array = npt.NDArray[Any]
# Returns how similar texts and names of classes are (N, C), as far as these channels of vectors say, or one of two
# wordings of the names.
Similarities = Callable[[Array, int | None], Array]

# The constants were chosen with all-MiniLM-L6-v2 on three of the sets of `benchmarks/few_labels.py`. Half or twice the
# value of one of them changes the mean accuracy by less than two points.
_ROUNDS = 12
# The scales of the log-probabilities by similarity to the names, by tokens and by vectors. Each of the last two assumes
# that its evidence is independent, which it is not.
_BY_NAMES, _BY_TOKENS, _BY_VECTORS = 0.3, 1.5, 0.3
# How much of the evidence that the rounds start from remains while classes are learned.
_START_WHILE_LEARNING = 0.5
# Tokens of fewer texts, or of a larger share of them, are ignored.
_LEAST_TEXTS, _LARGEST_SHARE = 2, 0.5
# The number of texts that each class is assumed to have in addition, with the tokens of all texts.
_PRIOR_TEXTS = 5.0
# How far the covariance of vectors is shrunk towards a multiple of the identity.
_SHRINKAGE = 0.5
# Pairs of halves of the evidence from which the accuracy is estimated.
_SPLITS = 3
_TINY = 1e-9


@dataclass(frozen=True)
class Found:
    """The classes of texts.

    Attributes:
        labels: (N,) the most probable class of each text.
        by_names: (N,) the class whose name is the most similar.
        estimate: The estimated share of right `labels`.
    """

    labels: Array
    by_names: Array
    estimate: float


def find_classes(vectors: Array, ids: Sequence[Sequence[int]], similarities: Similarities, seed: int) -> Found:
    """Label texts by the names of their classes.

    The estimated accuracy is the agreement of two such labellings, each of which knows a random half of the tokens and
    of the channels, and one wording of the names. It is too low by what the whole knows better than its halves, and too
    high by what both get wrong in the same way. Names that mean nothing lead the two to different labels. An estimate
    below chance says nothing else than chance.

    Args:
        vectors: (N, D) the vectors of the texts.
        ids: The token ids of the texts.
        similarities: The similarities to the names, such as those of `by_vectors`.
        seed: The seed of the halves.
    """
    counts, start = _counts_of(ids), _by_names(similarities(np.arange(vectors.shape[1]), None))
    labels = _learned(vectors, counts, start)
    rng, agreed = np.random.default_rng(seed), []
    for _ in range(_SPLITS):
        tokens, channels = rng.permutation(counts.shape[1]), rng.permutation(vectors.shape[1])
        halves = [(np.sort(tokens[half::2]), np.sort(channels[half::2])) for half in (0, 1)]
        one, other = (
            _learned(vectors[:, those], counts[:, these], _by_names(similarities(those, half)))
            for half, (these, those) in enumerate(halves)
        )
        agreed.append(float((one == other).mean()))
    return Found(labels, start.argmax(1), max(float(np.mean(agreed)), 1 / start.shape[1]))


def spread_labels(
    vectors: Array, ids: Sequence[Sequence[int]], known: Array, linear: Array, names: Array | None = None
) -> Array:
    """Label texts by some of them whose labels are known.

    Args:
        vectors: (N, D) the vectors of the texts, of which the first have labels.
        ids: The token ids of the texts.
        known: The classes of the first texts, which stay as they are.
        linear: (N, C) the outputs of a linear model that has learned them.
        names: (C, D) the vectors of the names of the classes, if they are known.

    Returns:
        (N,) the classes.
    """
    start = log_softmax(linear.astype(np.float64))
    if names is not None:
        start = log_softmax(start + _by_names(_cosines(vectors, names)))
    return _learned(vectors, _counts_of(ids), start, known)


def by_vectors(vectors: Array, names: Array) -> Similarities:
    """Return the cosines of the vectors of texts (N, D) and names (C, D), whatever the wording."""
    return lambda channels, wording: _cosines(vectors[:, channels], names[:, channels])


def by_wordings(scores: Array) -> Similarities:
    """Return the scores (2, N, C) of one of two wordings, or their mean, whatever the channels."""
    return lambda channels, wording: scores.mean(0) if wording is None else scores[wording]


def _cosines(vectors: Array, names: Array) -> Array:
    """Return the cosines (N, C) of vectors (N, D) and (C, D), each centred on its mean."""
    return np.asarray(_unit(vectors - vectors.mean(0)) @ _unit(names - names.mean(0)).T)


def _by_names(similarity: Array) -> Array:
    """Return log-probabilities (N, C) by the similarity to the names."""
    # Otherwise, the class whose name is like many texts would get most of them.
    return log_softmax(_BY_NAMES * (similarity - similarity.mean(0)) / (similarity.std(0) + _TINY))


def _learned(vectors: Array, counts: Any, start: Array, known: Array | Sequence[int] = ()) -> Array:
    """Return the classes (N,) after all rounds, which start from log-probabilities (N, C)."""
    by_tokens, by_vectors, probabilities, few = _Tokens(counts), _Vectors(vectors), np.exp(start), len(known)
    fixed = np.eye(start.shape[1])[np.asarray(known, dtype=np.int64)]
    probabilities[:few] = fixed
    for _ in range(_ROUNDS):
        # Labelled examples may have been chosen by class.
        shares = np.log(probabilities[few:].mean(0) + _TINY)
        evidence = by_tokens(probabilities) + by_vectors(probabilities) + _START_WHILE_LEARNING * start
        probabilities = np.exp(log_softmax(evidence + shares))
        probabilities[:few] = fixed
    return np.asarray(probabilities.argmax(1))


class _Tokens:
    """Naive Bayes on which tokens a text has. Long texts get no more certain than short ones with the same tokens."""

    def __init__(self, counts: Any) -> None:
        self.counts, self.shares = counts, np.asarray(counts.mean(0))
        self.scale = _BY_TOKENS / np.sqrt(np.maximum(np.asarray(counts.sum(1)), 1))

    def __call__(self, probabilities: Array) -> Array:
        """Return log-probabilities (N, C), up to a constant for each text."""
        if not self.counts.shape[1]:
            return np.zeros_like(probabilities)
        found = (self.counts.T @ probabilities).T + _PRIOR_TEXTS * self.shares
        return _centred(self.scale * (self.counts @ np.log(found / found.sum(1, keepdims=True)).T))


class _Vectors:
    """Linear discriminant analysis of vectors."""

    def __init__(self, vectors: Array) -> None:
        self.vectors = vectors - vectors.mean(0)
        self.covariance = self.vectors.T @ self.vectors / len(vectors)
        self.variance = np.trace(self.covariance) / vectors.shape[1] + _TINY

    def __call__(self, probabilities: Array) -> Array:
        """Return log-probabilities (N, C), up to a constant for each text."""
        sizes = probabilities.sum(0)
        means = (probabilities.T @ self.vectors) / (sizes[:, None] + _TINY)
        within = self.covariance - (means.T * (sizes / sizes.sum())) @ means
        within = (1 - _SHRINKAGE) * within + _SHRINKAGE * self.variance * np.eye(len(within))
        weight = np.linalg.solve(within, means.T)
        return _BY_VECTORS * _centred(self.vectors @ weight - (means * weight.T).sum(1) / 2)


def _counts_of(ids: Sequence[Sequence[int]]) -> Any:
    """Return which tokens each text has, as a sparse matrix (N, V) of zeros and ones."""
    from scipy.sparse import csr_matrix

    kept = [np.unique(np.asarray(text, dtype=np.int64)) for text in ids]
    rows, columns = np.repeat(np.arange(len(kept)), [len(text) for text in kept]), np.concatenate(kept)
    counts = csr_matrix((np.ones(len(columns)), (rows, columns)), shape=(len(kept), int(columns.max(initial=0)) + 1))
    texts = np.asarray(counts.sum(0)).ravel()
    return counts[:, (texts >= _LEAST_TEXTS) & (texts <= _LARGEST_SHARE * len(kept))]


def temperature_for(logits: Array, confidence: float) -> float:
    """Return what to divide logits (N, C) by, so that the mean probability of the best class is `confidence`."""
    low, high = -7.0, 7.0
    for _ in range(50):
        middle = (low + high) / 2
        found = float(np.exp(log_softmax(logits / np.exp(middle))).max(1).mean())
        low, high = (middle, high) if found > confidence else (low, middle)
    return float(np.exp((low + high) / 2))


def _unit(vectors: Array) -> Array:
    return np.asarray(vectors / (np.linalg.norm(vectors, axis=1, keepdims=True) + _TINY))


def _centred(logits: Array) -> Array:
    return np.asarray(logits - logits.mean(1, keepdims=True))
