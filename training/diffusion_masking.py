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
    """Draw masking rates from [0.001, 1] that are evenly spaced, from a common random start.

    Each rate is uniform, but together they cover the interval, which reduces the variance of the loss (Kingma et al.,
    2021, appendix I.1).

    Args:
        count: The number of texts.
        rng: The source of randomness.

    Returns:
        (N,) rates in random order.
    """
    uniform = rng.permutation((rng.random() + np.arange(count)) / count % 1)
    return _LEAST_RATE + (1 - _LEAST_RATE) * uniform


def mask_at_rate(
    ids: np.ndarray, maskable: np.ndarray, rate: float, mask: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Mask each token with probability `rate`.

    Args:
        ids: (L,) token ids.
        maskable: (L,) bool, which tokens may be masked.
        rate: The masking rate t.
        mask: The id of the mask token.
        rng: The source of randomness.

    Returns:
        (L,) ids with masks, and (L,) float32 weights of the labels: 1 / t at masks and 0 elsewhere.
    """
    chosen = maskable & (rng.random(len(ids)) < rate)
    weights = np.where(chosen, np.float32(1 / rate), np.float32(0))
    return np.where(chosen, mask, ids), weights


def mask_share(
    ids: np.ndarray, maskable: np.ndarray, share: float, mask: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Mask a fixed number of random tokens, for evaluations.

    If `share` is uniform, the loss estimates the same bound as with `mask_at_rate`, but varies less (LLaDA, Nie et al.,
    2025, equation 6).

    Args:
        ids: (L,) token ids.
        maskable: (L,) bool, which tokens may be masked; at least one.
        share: The share of these tokens to mask, rounded up to a whole number of at least 1.
        mask: The id of the mask token.
        rng: The source of randomness.

    Returns:
        (L,) ids with masks, and (L,) float32 weights of the labels: at masks the inverse of their share, 0 elsewhere.
    """
    places = np.flatnonzero(maskable)
    count = min(max(1, math.ceil(share * len(places))), len(places))
    chosen = rng.permutation(places)[:count]
    masked, weights = ids.copy(), np.zeros(len(ids), np.float32)
    masked[chosen], weights[chosen] = mask, len(places) / count
    return masked, weights
