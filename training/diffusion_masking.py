"""Masking for masked diffusion: each text is masked at its own rate, drawn uniformly.

The loss of a text with masking rate t is the cross entropy of its masked tokens, weighted by 1 / t. Its expectation is
an upper bound on the negative log-likelihood of the text (MDLM, Sahoo et al., 2024; LLaDA, Nie et al., 2025).

Shapes: N texts, L tokens of a text.
"""

from __future__ import annotations

import math

import numpy as np

# Weights of 1 / t would otherwise be unbounded.
_LEAST_RATE = 1e-3


def antithetic_rates(count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw masking rates (N,) from [0.001, 1] in random order that are evenly spaced, from a common random start.

    Each rate is uniform, but together they cover the interval, which reduces the variance of the loss (Kingma et al.,
    2021, appendix I.1).
    """
    uniform = rng.permutation((rng.random() + np.arange(count)) / count % 1)
    return _LEAST_RATE + (1 - _LEAST_RATE) * uniform


def mask_at_rate(
    ids: np.ndarray, maskable: np.ndarray, rate: float, mask: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Mask each of the maskable tokens (L,) with probability `rate`.

    Returns:
        (L,) ids with masks, and (L,) float32 weights of the labels: 1 / t at masks and 0 elsewhere.
    """
    chosen = maskable & (rng.random(len(ids)) < rate)
    weights = np.where(chosen, np.float32(1 / rate), np.float32(0))
    return np.where(chosen, mask, ids), weights


def mask_share(
    ids: np.ndarray, maskable: np.ndarray, share: float, mask: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Mask a fixed share of the maskable tokens (L,), rounded up to whole tokens.

    If `share` is uniform, so is the number of masks, and the weighted loss has the expectation that `mask_at_rate` with
    a uniform rate gives it, with a lower variance (LLaDA, Nie et al., 2025, appendix B.5).

    Returns:
        (L,) ids with masks, and (L,) float32 weights of the labels: one over the share of masks at masks, and 0
        elsewhere.
    """
    places = np.flatnonzero(maskable)
    # The product can exceed a whole number by a rounding error.
    count = max(1, math.ceil(share * len(places) - 1e-9))
    chosen = rng.choice(places, size=count, replace=False)
    masked, weights = ids.copy(), np.zeros(len(ids), dtype=np.float32)
    masked[chosen], weights[chosen] = mask, len(places) / count
    return masked, weights
