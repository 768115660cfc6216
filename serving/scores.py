"""From logits to the scores that clients get.

Shapes: N texts, C classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def probabilities(logits: np.ndarray[Any, Any], several: bool) -> np.ndarray[Any, Any]:
    """Return probabilities (N, C).

    Args:
        logits: (N, C).
        several: Whether several classes can be right, or a single one is a score by itself.
    """
    logits = logits.astype(np.float64)
    if several:
        # Without an overflow of exp for large negative numbers.
        return 0.5 * (1 + np.tanh(0.5 * logits))
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def ranking(scores: np.ndarray[Any, Any]) -> list[tuple[int, float]]:
    """Return (index, score) of each text, the best first, and in the order of the request if scores are equal."""
    order = np.argsort(-scores, kind="stable")
    return [(int(index), float(scores[index])) for index in order]
