"""Estimates of how often a model is right about texts without labels, from texts with labels.

No estimate is right for every shift (Garg et al., 2022, prove it). These use the confidences of the model, or its
agreement with other models.

Shapes: U answers, N texts, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..calibration.scaling import fit_temperature, single_label_loss
from ..judging import Judged

# The estimate that the report shows first, where it exists, and else the next one.
PREFERRED = ("thresholds_and_transport", "thresholded_confidence")
# Texts that are assigned to labels together: the assignment takes cubic time.
_TOGETHER = 500
_TINY = 1e-30


def estimates_of(
    home: Judged, away: Judged, others: Sequence[tuple[Judged, Judged]] = (), seed: int = 0
) -> dict[str, float]:
    """Estimate the share of right answers in a file.

    With one label per text, the confidences are those after a temperature that is fitted at home, which changes little
    for a calibrated model.

    Args:
        home: The answers at home, with labels.
        away: The answers in the file, whose labels are not used.
        others: The answers of other models to both, for the agreement with them.
        seed: The seed of the groups in `transport_costs`.

    Returns:
        The estimates by name: `confidence`, the mean confidence; `confidence_difference`, corrected by what it is off
        at home (Guillory et al., 2021); `thresholded_confidence`, the share of confidences above the threshold that
        is right at home (Garg et al., 2022). With one label per text, `transport`, the mean probability of labels that
        occur as often as at home (Lu et al., 2023), and `thresholds_and_transport`, the mean of the two before: the
        first is often too low, and the second too high. With other models, `agreement` (Jiang et al., 2022), corrected
        by what it is off at home.
    """
    assert home.correct is not None
    right = float(home.correct.mean())
    before, after = home.confidence, away.confidence
    found: dict[str, float] = {}
    if home.known is not None and home.known.ndim == 1 and home.probabilities is not None:
        assert away.probabilities is not None
        temperature = temperature_of(home.probabilities, home.known)
        there = with_temperature(away.probabilities, temperature)
        before, after = with_temperature(home.probabilities, temperature).max(1), there.max(1)
        shares = np.bincount(home.known, minlength=there.shape[1]) / len(home.known)
        found["transport"] = 1 - float(transport_costs(there, shares, seed).mean())
    found["confidence"] = float(after.mean())
    found["confidence_difference"] = right + float(after.mean() - before.mean())
    found["thresholded_confidence"] = share_above_threshold(before, after, right)
    if "transport" in found:
        found["thresholds_and_transport"] = (found["transport"] + found["thresholded_confidence"]) / 2
    if others:
        agreed_at_home, agreed = (
            float(np.mean([(pair[side].answers == mine.answers).mean() for pair in others]))
            for side, mine in ((0, home), (1, away))
        )
        found["agreement"] = right + agreed - agreed_at_home
    return {name: min(1.0, max(0.0, value)) for name, value in found.items()}


def share_above_threshold(before: np.ndarray, after: np.ndarray, right: float) -> float:
    """Return the share of confidences (M,) above the threshold that a share of others (N,) is above.

    Confidences that are equal to the threshold, such as many that are 1, count in part: as much as they must for the
    others to have the share exactly.
    """
    threshold = np.quantile(before, 1 - right)
    equal = float((before == threshold).mean())
    counted = (right - float((before > threshold).mean())) / equal if equal else 0.0
    return float((after > threshold).mean() + counted * (after == threshold).mean())


def temperature_of(probabilities: np.ndarray, known: np.ndarray) -> float:
    """Return the temperature that gives the labels (N,) the highest likelihood, for probabilities (N, C)."""
    logits = torch.from_numpy(np.log(probabilities + _TINY))
    return 1 / float(fit_temperature(logits, torch.from_numpy(known), single_label_loss).scale[0])


def with_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return the probabilities (N, C) that logits divided by a temperature would have."""
    logits = np.log(probabilities + _TINY) / temperature
    scaled = np.exp(logits - logits.max(1, keepdims=True))
    return scaled / scaled.sum(1, keepdims=True)


def transport_costs(probabilities: np.ndarray, shares: np.ndarray, seed: int) -> np.ndarray:
    """Return 1 - the probability of the label that each text is assigned to, (N,).

    The texts are assigned to labels at the least total cost, so that each label has a given share of them.

    Args:
        probabilities: (N, C).
        shares: (C,) the shares of the labels.
        seed: The seed of the groups of texts that are assigned together.
    """
    from scipy.optimize import linear_sum_assignment

    costs = np.empty(len(probabilities))
    order = np.random.default_rng(seed).permutation(len(costs))
    for part in np.array_split(order, max(1, round(len(order) / _TOGETHER))):
        # Whole numbers of texts with the sum of the part.
        ends = np.round(shares.cumsum() * len(part)).astype(int)
        labels = np.repeat(np.arange(len(shares)), np.diff(ends, prepend=0))
        texts, places = linear_sum_assignment(1 - probabilities[part][:, labels])
        costs[part[texts]] = 1 - probabilities[part[texts], labels[places]]
    return costs
