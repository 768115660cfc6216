"""What models without a calibration do where calibrated ones have scaled scores, sets and p-values."""

from typing import Any

import torch

from ...modeling.calibration.outputs import refuse_uncalibrated


def calibration_of(model: Any) -> None:
    """Return that a model has no calibration."""


def calibrated_logits(logits: torch.Tensor, config: Any) -> torch.Tensor:
    """Return the logits as they are."""
    return logits


def check_refusal(calibration: None, coverage: float | None = None, abstain_below: float | None = None) -> None:
    """Refuse the arguments of a pipeline that need a calibrated model."""
    refuse_uncalibrated(coverage, abstain_below)


def with_p_values(model: Any, calibration: None, **inputs: Any) -> tuple[Any, torch.Tensor | None]:
    """Run a model, and return its outputs without p-values."""
    return model(**inputs, return_dict=True), None


CANDIDATES = 0


def in_sets(calibration: None, answers: list[Any], *others: Any) -> list[Any]:
    """Return the answers as they are."""
    return answers
