"""Turns logits into the scores that clients receive.

Shapes: N texts, C classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..modeling.calibration.calibration import Calibration
from ..modeling.calibration.outputs import labels_in_sets


def probabilities(logits: np.ndarray[Any, Any], several: bool) -> np.ndarray[Any, Any]:
    """Return probabilities (N, C) for logits (N, C).

    `several` says that several classes can be right, or that a single one is a score by itself.
    """
    scores = torch.from_numpy(logits).double()
    return (scores.sigmoid() if several else scores.softmax(dim=1)).numpy()


def with_sets(
    calibration: Calibration,
    results: list[list[dict[str, Any]]],
    scores: np.ndarray[Any, Any],
    labels: list[str],
    p_values: list[float | None],
    coverage: float | None,
    abstain_below: float | None,
) -> list[list[dict[str, Any]]]:
    """Add what a calibrated model knows to the results of each text, as its pipeline does.

    Args:
        calibration: The calibration.
        results: The labels of each text with their scores.
        scores: (N, C) probabilities.
        labels: The names of the C classes.
        p_values: The p-value of unfamiliarity of each text, or None.
        coverage: The share of true labels that the sets contain.
        abstain_below: The p-value below which there is no answer.

    Returns:
        The results with `labels` and `unfamiliarity`; a single one without a label for a text without an answer.
    """
    refused = [each is not None and abstain_below is not None and each < abstain_below for each in p_values]
    added: list[dict[str, Any]] = [{} if each is None else {"unfamiliarity": each} for each in p_values]
    if calibration.sets is not None:
        likely = torch.from_numpy(scores).float()
        sets = labels_in_sets(calibration, likely, labels, coverage, torch.tensor(refused))
        added = [{"labels": names, **others} for names, others in zip(sets, added, strict=True)]
    nothing = {"score": None, "label": None}
    return [
        [{**nothing, **more}] if is_refused else [{**each, **more} for each in found]
        for found, more, is_refused in zip(results, added, refused, strict=True)
    ]


def ranking(scores: np.ndarray[Any, Any]) -> list[tuple[int, float]]:
    """Return (index, score) of each text, the best first, and in the order of the request if scores are equal."""
    order = np.argsort(-scores, kind="stable")
    return [(int(index), float(scores[index])) for index in order]
