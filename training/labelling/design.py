"""Chooses texts by experimental design: those whose labels would say most about all texts of a corpus.

For a linear model on vectors with a ridge penalty, the labels of texts X leave the variance x' (X'X + penalty I)^-1 x
at a text x. The vectors are centred, and have one more channel for the intercept. Each choice lowers the mean variance
over the corpus as much as one text can (Yu, Bi and Tresp, 2006, "Active learning via transductive experimental
design"). Such texts are typical, because they lower the variance at many others, and different from each other, because
it is low already where a text was chosen or has a label. If a model is sure of a text, its label says less: it counts
as a fraction of a text, as in the Fisher information of logistic regression. The choice is then of uncertain texts, but
neither of outliers nor of many similar ones.

Shapes: N texts, L labelled texts, D channels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

# The penalty, in the unit of the mean squared length of centred vectors.
_PENALTY = 1.0
# The smallest share of a text that a label counts as.
_LEAST = 0.01
# Vectors to multiply together, which bounds the memory.
_BLOCK = 4096


def choose_by_design(
    vectors: Array, labelled: Array, count: int, uncertainty: Array | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Choose texts, the most useful first.

    Args:
        vectors: (N, D) the vectors of the texts to choose from. They are scaled in place.
        labelled: (L, D) the vectors of texts that have a label.
        count: The number of texts to choose, at most N.
        uncertainty: (N,) how uncertain a model is about each text, from 0 to 1; without it, it is 1.

    Returns:
        The indices of the chosen texts, and for each of them the number of texts that it is the most similar one to.
    """
    centre = _unit(vectors).mean(axis=0)
    vectors -= centre
    scale = np.sqrt(np.einsum("nd,nd->n", vectors, vectors).mean()) or np.float32(1)
    vectors = _with_intercept(vectors / scale)
    labelled = _with_intercept((_unit(labelled.copy()) - centre) / scale)
    known = np.linalg.inv(_PENALTY * np.eye(vectors.shape[1]) + labelled.T @ labelled)
    mean = (vectors.T @ vectors / len(vectors)).astype(np.float64)
    noise = 1 / np.maximum(np.ones(len(vectors)) if uncertainty is None else uncertainty, _LEAST)
    # The variance at each text, and the sum over the corpus of its squared covariances with the texts.
    variance, covered = _forms(vectors, known), _forms(vectors, known @ mean @ known)
    chosen: list[int] = []
    for _ in range(count):
        gains = covered / (noise + variance)
        gains[chosen] = -np.inf
        chosen.append(int(gains.argmax()))
        # In float32, because NumPy would make a copy of all vectors in float64.
        column = (known @ vectors[chosen[-1]]).astype(np.float32)
        total = noise[chosen[-1]] + vectors[chosen[-1]] @ column
        with_column, with_mean = vectors @ column, vectors @ (known @ (mean @ column)).astype(np.float32)
        covered += (with_column / total) ** 2 * (column @ mean @ column) - 2 * with_column * with_mean / total
        variance -= with_column**2 / total
        known -= np.outer(column, column) / total
    return np.array(chosen), _followers(vectors, labelled, chosen)


def _with_intercept(vectors: Array) -> Array:
    return np.column_stack([vectors, np.ones(len(vectors), np.float32)])


def _unit(vectors: Array) -> Array:
    """Scale vectors to length 1, in place."""
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    vectors /= np.maximum(lengths, np.finfo(np.float32).tiny)[:, None]
    return vectors


def _forms(vectors: Array, matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return x' M x (N,) for each vector x."""
    return np.concatenate([np.einsum("nd,nd->n", block @ matrix, block) for block in _blocks(vectors)])


def _followers(vectors: Array, labelled: Array, chosen: list[int]) -> npt.NDArray[np.int64]:
    """Return for each chosen text how many others are more similar to it than to other chosen or labelled texts."""
    vectors, labelled = vectors[:, :-1], labelled[:, :-1]  # without the intercept
    centres = _unit(np.concatenate([vectors[chosen], labelled]))
    nearest = np.concatenate([(block @ centres.T).argmax(axis=1) for block in _blocks(vectors)])
    nearest[chosen] = len(centres)
    return np.bincount(nearest, minlength=len(chosen))[: len(chosen)]


def _blocks(vectors: Array) -> list[Array]:
    return np.array_split(vectors, -(-len(vectors) // _BLOCK))
