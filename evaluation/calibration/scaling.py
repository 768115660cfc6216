"""Scales logits so that their probabilities say how often answers are right.

Shapes: N texts, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional as F

from ...command_line import UsageError
from ...modeling import SequenceEncoderForSequenceClassification
from ...modeling.calibration.logit_calibration import adaptive_temperatures, divided_by_temperatures, log_entropies

_TINY = 1e-6
_DIGITS = 6
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Scaling(Protocol):
    """What is done to the logits of a model."""

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Scale logits (N, C)."""

    def as_json(self, labels: list[str]) -> dict[str, Any]:
        """Return the method and the numbers for `calibration.json`.

        Args:
            labels: The names of the classes.
        """

    def apply_to(self, model: Any, layer: nn.Linear) -> None:
        """Change a model so that it returns scaled logits.

        Args:
            model: The model.
            layer: Its last layer.
        """


@dataclass(frozen=True)
class LinearScaling:
    """A scale and an offset for the logits of each class.

    Attributes:
        method: `temperature` for the same scale and no offset, or `vector`.
        scale: (C,).
        offset: (C,).
    """

    method: str
    scale: torch.Tensor
    offset: torch.Tensor

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """See `Scaling`."""
        return logits * self.scale + self.offset

    def as_json(self, labels: list[str]) -> dict[str, Any]:
        """See `Scaling`."""
        if self.method == "temperature":
            return {"method": self.method, "temperature": round(1 / float(self.scale[0]), 6)}
        values = zip(labels, self.scale.tolist(), self.offset.tolist(), strict=True)
        return {"method": self.method, "scale_and_offset": {name: [a, b] for name, a, b in values}}

    def apply_to(self, model: Any, layer: nn.Linear) -> None:
        """See `Scaling`. The scaling becomes a part of the weights, unless another step comes between."""
        if calibrates_logits(model):
            scale_outputs(model.config, self.scale.tolist(), self.offset.tolist())
            return
        with torch.no_grad():
            layer.weight.mul_(self.scale.to(layer.weight)[:, None])
            if layer.bias is None:
                if self.offset.any():
                    raise ValueError("The layer must have a bias for vector scaling; use temperature scaling.")
            else:
                layer.bias.mul_(self.scale.to(layer.bias)).add_(self.offset.to(layer.bias))


def calibrates_logits(model: Any) -> bool:
    """Return whether a model applies steps of `config.logit_calibration` after its last layer."""
    return isinstance(model, SequenceEncoderForSequenceClassification) and bool(model.config.logit_calibration)


def scale_outputs(config: Any, scale: list[float], offset: list[float]) -> None:
    """Add a scale and an offset for each class at the end of `config.logit_calibration`."""
    *before, last = config.logit_calibration
    if "scale" in last:
        old = zip(last["scale"], last["offset"], scale, offset, strict=True)
        pairs = [(first * second, shift * second + added) for first, shift, second, added in old]
        last = {"scale": [pair[0] for pair in pairs], "offset": [pair[1] for pair in pairs]}
        config.logit_calibration = [*before, last]
    else:
        config.logit_calibration = [*before, last, {"scale": scale, "offset": offset}]


def single_label_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the cross entropy of each text (N,), from logits (N, C) and classes (N,)."""
    return F.cross_entropy(logits, targets, reduction="none")


def multi_label_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the mean binary cross entropy over the labels of each text (N,), from logits and targets (N, C)."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(-1)


def fit_scale(loss: Callable[[torch.Tensor], torch.Tensor], answers: int) -> torch.Tensor:
    """Return the scale whose logarithm minimises a loss.

    A small penalty keeps it near 1. Without it, a model that is right on all of a few examples would become certain.

    Args:
        loss: The mean loss of answers, from the logarithm of a scale.
        answers: The number of answers.
    """
    return minimise(lambda x: loss(x) + x.square() / answers, torch.zeros((), dtype=torch.float64)).exp()


def fit_temperature(logits: torch.Tensor, targets: torch.Tensor, loss: Loss) -> LinearScaling:
    """Find the temperature that minimises the loss (Guo et al., 2017). It cannot change which class is most likely."""
    scale = fit_scale(lambda x: loss(logits.double() * x.exp(), targets).mean(), len(logits)).float()
    classes = logits.shape[1]
    return LinearScaling("temperature", scale.expand(classes).clone(), torch.zeros(classes))


def fit_confidences(
    confidences: Callable[[torch.Tensor], torch.Tensor], correct: torch.Tensor, folds: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the scale of the logits with which the confidences say how often answers are right.

    Args:
        confidences: Returns the confidences (A,) of all answers, from a scale.
        correct: (A,) bool.
        folds: (A,) the fold of each answer.

    Returns:
        The scale, and for each answer (A,) the scale that was fitted to the other folds.
    """

    def fit(chosen: torch.Tensor) -> torch.Tensor:
        def loss(log_scale: torch.Tensor) -> torch.Tensor:
            found = confidences(log_scale.exp()).clamp(_TINY, 1 - _TINY)
            return F.binary_cross_entropy(found[chosen], correct[chosen].double())

        return fit_scale(loss, int(chosen.sum()))

    held_out = torch.ones(len(folds), dtype=torch.float64)
    for fold in folds.unique():
        held_out[folds == fold] = fit(folds != fold)
    return fit(torch.ones_like(folds, dtype=torch.bool)), held_out


def fit_vector(logits: torch.Tensor, targets: torch.Tensor, loss: Loss) -> LinearScaling:
    """Find a scale and an offset for each class that minimise the loss.

    A small penalty keeps them near the temperature, so that rare classes do not get extreme ones.
    """
    start = fit_temperature(logits, targets, loss)
    first = torch.stack([start.scale.log(), start.offset]).double()
    penalty = 1 / len(logits)

    def objective(x: torch.Tensor) -> torch.Tensor:
        return loss(logits.double() * x[0].exp() + x[1], targets).mean() + penalty * (x - first).square().sum()

    found = minimise(objective, first)
    return LinearScaling("vector", found[0].exp().float(), found[1].float())


def minimise(objective: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor) -> torch.Tensor:
    """Minimise a smooth function by L-BFGS."""
    with torch.enable_grad():
        x = start.clone().requires_grad_()
        optimizer = torch.optim.LBFGS([x], max_iter=200, tolerance_grad=1e-8, line_search_fn="strong_wolfe")

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            value = objective(x)
            value.backward()
            return value

        optimizer.step(closure)
    return x.detach()


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
