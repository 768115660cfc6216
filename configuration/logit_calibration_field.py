"""The field `logit_calibration` of a `SequenceEncoderConfig`: what it holds, and which other fields it belongs to."""

# The configuration imports this module, so that it cannot be imported here.
import math
from collections.abc import Mapping
from typing import Any

_SINGLE = "single_label_classification"
_DEFAULT_LABELS = range(2)
# Below this temperature, float32 has no numbers for the logits.
_LEAST_TEMPERATURE = 1e-6
_ADAPTIVE = {"temperature_weight", "temperature_bias", "log_entropy_range"}
_LINEAR = {"scale", "offset"}


def check_logit_calibration(config: Any) -> None:
    """Check the steps of `logit_calibration`."""
    for step in config.logit_calibration or []:
        if set(step) == _ADAPTIVE:
            values = [step["temperature_weight"], step["temperature_bias"], *_numbers(step["log_entropy_range"], 2)]
            valid = _are_numbers(values) and _are_temperatures(*values)
        elif set(step) == _LINEAR:
            labels = len(config.id2label)
            valid = _are_numbers([*_numbers(step["scale"], labels), *_numbers(step["offset"], labels)])
        else:
            valid = False
        if not valid:
            raise ValueError(
                "logit_calibration must be a list of steps, each with temperature_weight, temperature_bias and "
                "log_entropy_range (the lowest and the highest) for positive temperatures, or with scale and offset, "
                f"which have a number for each of the {len(config.id2label)} labels; got {step!r}."
            )
    if config.logit_calibration and config.problem_type == "regression":
        raise ValueError("logit_calibration must be None with problem_type='regression'.")


def _numbers(value: Any, count: int) -> list[Any]:
    """Return a list of a length, or else one without numbers."""
    return list(value) if isinstance(value, list | tuple) and len(value) == count else [None]


def _are_numbers(values: list[Any]) -> bool:
    try:
        return all(not isinstance(value, bool) and math.isfinite(value) for value in values)
    except (TypeError, OverflowError):
        return False


def _are_temperatures(weight: float, bias: float, lowest: float, highest: float) -> bool:
    """Return whether the temperatures at both ends of a range are numbers that can divide logits."""
    inside = (weight * entropy + bias for entropy in (lowest, highest))
    return lowest <= highest and all(math.log(_LEAST_TEMPERATURE) < value < math.inf for value in inside)


def keeps_calibration(saved: Mapping[str, Any], overrides: Mapping[str, Any]) -> bool:
    """Return whether the calibration in a saved configuration is still valid after overrides."""
    kinds = [each.get("problem_type") or _SINGLE for each in (saved, {**saved, **overrides})]
    labels = [len(saved.get("id2label") or _DEFAULT_LABELS)]
    labels.append(len(overrides.get("id2label") or ()) or overrides.get("num_labels", labels[0]))
    return kinds[0] == kinds[1] and labels[0] == labels[1]
