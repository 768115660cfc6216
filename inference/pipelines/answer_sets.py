"""The sets of answers of a calibrated model for question answering, and the p-values of its questions."""

from collections.abc import Iterable
from typing import Any

import torch

# Answers to consider for the sets of a calibrated model.
CANDIDATES = 20


def in_sets(
    calibration: Any,
    answers: list[dict[str, Any]],
    windows: list[dict[str, Any]],
    coverage: float | None,
    abstain_below: float | None,
) -> list[dict[str, Any]]:
    """Add the set of answers and the p-value of a question to its answers.

    Args:
        calibration: The calibration of the model; None if it has none, and the answers stay as they are.
        answers: The answers, the best first.
        windows: The windows of the context, which may have an `unfamiliarity`.
        coverage: The share of questions whose set has the right answer; by default that of the calibration.
        abstain_below: The p-value below which there is no answer.
    """
    if calibration is None:
        return answers
    threshold = calibration.sets.threshold(coverage)
    inside = [each["answer"] for place, each in enumerate(answers) if not place or 1 - each["score"] <= threshold]
    added: dict[str, Any] = {}
    if "unfamiliarity" in windows[0]:
        # A context that is read in several windows has their mean.
        added["unfamiliarity"] = float(torch.stack([window["unfamiliarity"] for window in windows]).mean())
    if abstain_below is not None and added.get("unfamiliarity", 1.0) < abstain_below:
        nothing = dict.fromkeys(("score", "start", "end", "answer"))
        return [{**nothing, "answers": _different(each["answer"] for each in answers), **added}]
    return [{**each, "answers": _different(inside), **added} for each in answers]


def _different(answers: Iterable[str]) -> list[str]:
    """Return each answer once, although it may be in several places of a context."""
    return list(dict.fromkeys(answers))
