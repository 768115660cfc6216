"""Calibrates the logits of a classifier, as `config.logit_calibration` says.

Shapes: B batch, C classes.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional as F

# Below this entropy, in nats, the largest probability is above 0.999999 and float32 has only noise.
LEAST_ENTROPY = 1e-5


def calibrated_logits(logits: torch.Tensor, config: Any) -> torch.Tensor:
    """Return the logits (B, C) after the steps of `config.logit_calibration`, in the dtype of the logits.

    Args:
        logits: (B, C).
        config: The configuration of the model.
    """
    if not config.logit_calibration:
        return logits
    several = config.problem_type == "multi_label_classification"
    found = logits.float()
    for step in config.logit_calibration:
        if "temperature_weight" in step:
            found = divided_by_temperatures(found, step, several)
        else:
            scale, offset = (
                torch.tensor(step[name]).to(found.device, non_blocking=True) for name in ("scale", "offset")
            )
            found = found * scale + offset
    return found.to(logits.dtype)


def divided_by_temperatures(logits: torch.Tensor, step: Mapping[str, Any], several_labels: bool) -> torch.Tensor:
    """Divide logits (B, C) by the temperature of each text, or of each label of a multi-label model.

    Args:
        logits: (B, C).
        step: A step of `config.logit_calibration` with temperatures.
        several_labels: Whether the model is multi-label.
    """
    entropies = log_entropies(logits, several_labels).clamp(*step["log_entropy_range"])
    return logits / adaptive_temperatures(entropies, step["temperature_weight"], step["temperature_bias"])


def log_entropies(logits: torch.Tensor, several_labels: bool) -> torch.Tensor:
    """Return the logarithm of the entropy, in nats, of the probabilities that logits stand for.

    Args:
        logits: (B, C).
        several_labels: Whether the model is multi-label, so that each label is a binary decision.

    Returns:
        (B, 1), or (B, C) with several labels.
    """
    if several_labels:
        yes, no = F.logsigmoid(logits), F.logsigmoid(-logits)
        entropy = -(yes.exp() * yes + no.exp() * no)
    else:
        log_probabilities = logits.log_softmax(-1)
        entropy = -(log_probabilities.exp() * log_probabilities).sum(-1, keepdim=True)
    return entropy.clamp(min=LEAST_ENTROPY).log()


def adaptive_temperatures(entropies: torch.Tensor, weight: Any, bias: Any) -> torch.Tensor:
    """Return a temperature for each text by entropy-based temperature scaling (Balanya et al., 2024).

    Args:
        entropies: The results of `log_entropies`.
        weight: How much the temperature grows with the logarithm of the entropy.
        bias: The temperature at an entropy of 1 nat, before the softplus that keeps it positive.
    """
    return F.softplus(weight * entropies + bias)
