"""Adaptive temperature scaling: each text has its own temperature, which depends on the entropy of its prediction.

Shapes: N texts, C classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...command_line import UsageError
from ...modeling.calibration.logit_calibration import adaptive_temperatures, divided_by_temperatures, log_entropies
from .scaling import Loss, Scaling, fit_temperature, minimise, multi_label_loss

_DIGITS = 6


@dataclass(frozen=True)
class AdaptiveScaling:
    """A temperature for each text, computed from the entropy of its probabilities (entropy-based temperature scaling).

    It does not change which class is most likely (Balanya et al., 2024, "Adaptive temperature scaling for robust
    calibration of deep neural networks").

    Attributes:
        weight: How much the temperature grows with the logarithm of the entropy, at least 0.
        bias: The temperature at an entropy of 1 nat, before the softplus that keeps it positive.
        log_entropy_range: The lowest and the highest logarithm of the entropy among the calibration texts. Values
            outside are clamped to it, since there were no examples there.
        several_labels: Whether the model is multi-label, so that each label has its own temperature.
    """

    weight: float
    bias: float
    log_entropy_range: tuple[float, float]
    several_labels: bool

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """See `Scaling`."""
        return divided_by_temperatures(logits, self._step, self.several_labels)

    def as_json(self, labels: list[str]) -> dict[str, Any]:
        """See `Scaling`."""
        return {"method": "adaptive", **self._step}

    def apply_to(self, model: Any, layer: nn.Linear) -> None:
        """See `Scaling`. No weights can express it, so that it becomes a step of `config.logit_calibration`."""
        model.config.logit_calibration = [*(model.config.logit_calibration or []), self._step]

    @property
    def _step(self) -> dict[str, Any]:
        return {
            "temperature_weight": round(self.weight, _DIGITS),
            "temperature_bias": round(self.bias, _DIGITS),
            "log_entropy_range": [round(each, _DIGITS) for each in self.log_entropy_range],
        }


def fit_adaptive(logits: torch.Tensor, targets: torch.Tensor, loss: Loss) -> Scaling:
    """Find the temperatures that minimise the loss, and that do not fall as the entropy grows.

    If they fell, a text that the model is more certain about could get a lower confidence than one that it is less
    certain about: all texts then have one temperature. As for this one, a small penalty keeps them near 1.

    Raises:
        UsageError: If no finite temperatures are found.
    """
    several = loss is multi_label_loss
    logits = logits.double()
    entropies = log_entropies(logits, several)
    center = entropies.mean()

    def bias(log_temperature: torch.Tensor) -> torch.Tensor:
        # The inverse of the softplus, without an overflow.
        temperature = log_temperature.exp()
        return temperature + (-torch.expm1(-temperature)).log()

    def objective(x: torch.Tensor) -> torch.Tensor:
        # The weight, and the logarithm of the temperature at the mean entropy, which hardly depend on each other.
        temperatures = adaptive_temperatures(entropies - center, x[0], bias(x[1]))
        return loss(logits / temperatures, targets).mean() + x.square().sum() / len(logits)

    single = fit_temperature(logits, targets, loss)
    start = -single.scale[0].double().log()
    weight, log_temperature = minimise(objective, torch.stack([torch.zeros_like(start), start]))
    if round(float(weight), _DIGITS) <= 0:
        return single
    found = float(weight), float(bias(log_temperature) - weight * center)
    if not all(map(math.isfinite, found)):
        raise UsageError("no temperatures fit these examples; their labels or the model's scores may be wrong.")
    return AdaptiveScaling(*found, (float(entropies.min()), float(entropies.max())), several)
