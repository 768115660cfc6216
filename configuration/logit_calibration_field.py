"""Checks the field `logit_calibration` of a `SequenceEncoderConfig`."""

# The configuration imports this module, so that the functions here cannot name its class.
import math
from typing import Any

_ADAPTIVE = {"temperature_weight", "temperature_bias", "log_entropy_range"}
_LINEAR = {"scale", "offset"}


def check_logit_calibration(config: Any) -> None:
    """Check the steps of `logit_calibration`.

    Args:
        config: The configuration.

    Raises:
        ValueError: If a step is not one of the two kinds, or its numbers do not fit the model.
    """
    for step in config.logit_calibration or []:
        if set(step) == _ADAPTIVE:
            values = [step["temperature_weight"], step["temperature_bias"], *_numbers(step["log_entropy_range"], 2)]
            valid = _are_numbers(values) and values[2] <= values[3]
        elif set(step) == _LINEAR:
            labels = len(config.id2label)
            valid = _are_numbers([*_numbers(step["scale"], labels), *_numbers(step["offset"], labels)])
        else:
            valid = False
        if not valid:
            raise ValueError(
                "logit_calibration must be a list of steps, each with temperature_weight, temperature_bias and "
                "log_entropy_range (the lowest and the highest), or with scale and offset, which have a number for "
                f"each of the {len(config.id2label)} labels; got {step!r}."
            )
    if config.logit_calibration and config.problem_type == "regression":
        raise ValueError("logit_calibration must be None with problem_type='regression'.")


def _numbers(value: Any, count: int) -> list[Any]:
    """Return a list of a length, or else one without numbers."""
    return list(value) if isinstance(value, list | tuple) and len(value) == count else [None]


def _are_numbers(values: list[Any]) -> bool:
    return all(
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) for value in values
    )
