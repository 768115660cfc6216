"""The arguments of the pretraining objectives: which they are, their weights, and the share of masked tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from ...command_line.options import option

# The progress of the masking probability from its initial to its final value, by the progress of the training.
MASK_SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 0.0,
    "linear": lambda progress: progress,
    "cosine": lambda progress: (1 - math.cos(math.pi * progress)) / 2,
}

# The objectives, and the fields that have no effect with each.
OBJECTIVES: dict[str, tuple[str, ...]] = {
    "mlm": (),
    "diffusion": (
        "mlm_weight",
        "sop_weight",
        "bow_weight",
        "mlm_probability",
        "final_mlm_probability",
        "mlm_schedule",
        "whole_word_mask",
    ),
}

# The weights that are 0 with an objective in which they have no effect, so that 0 is allowed there.
DISABLED = ("sop_weight", "bow_weight")


@dataclass(frozen=True)
class Objectives:
    """The objectives of pretraining.

    Args:
        mlm_weight: The weight of the masked language modelling loss; 0 disables masking.
        sop_weight: The weight of the sentence order loss; 0 disables this objective.
        bow_weight: The weight of the loss with which the mean vectors of some windows predict their tokens; 0 disables
            this objective.
        mlm_probability: The share of tokens to predict. Of these, 80 % are masked, 10 % replaced and 10 % kept.
        final_mlm_probability: The share at the end of training, unless the schedule is "constant".
        mlm_schedule: The schedule of the share, "constant", "linear" or "cosine". A share that falls during training
            follows Yang et al. (2023).
        whole_word_mask: Whether to predict either all tokens of a word or none.
        objective: "mlm" is masked language modelling, sentence order prediction and bags of words. "diffusion" is
            masked diffusion (Sahoo et al., 2024), with which a model can also write: each text is masked at its own
            rate, drawn uniformly from 0 to 1, all chosen tokens are masked, and the loss is a bound on the negative
            log-likelihood. `sop_weight` and `bow_weight` are then 0, and the other fields must have their defaults.

    Raises:
        ValueError: If a number or a name is not allowed, or a field has no effect.
    """

    _argument_group_name = "objectives"

    mlm_weight: float = option("Weight of the masked language modelling loss; 0 disables it.", 1.0)
    sop_weight: float = option("Weight of the sentence order loss; 0 disables it.", 1.0)
    mlm_probability: float = option("Share of tokens to predict.", 0.3)
    final_mlm_probability: float = option(
        "Share of tokens to predict at the end of training, unless --mlm_schedule is constant.", 0.15
    )
    mlm_schedule: str = option(
        "How the share of tokens to predict changes during training.", "constant", choices=list(MASK_SCHEDULES)
    )
    whole_word_mask: bool = option("Predict either all tokens of a word or none.", False)

    objective: str = option(
        "Objective: masked language modelling and sentence order (mlm), or masked diffusion, with which the model "
        "can also generate text (diffusion).",
        "mlm",
        choices=list(OBJECTIVES),
    )
    bow_weight: float = option(
        "Weight of the loss with which the vectors of texts predict their tokens; 0 disables it.", 1.0
    )

    def __post_init__(self) -> None:
        tables: dict[str, dict[str, Any]] = {"objective": OBJECTIVES, "mlm_schedule": MASK_SCHEDULES}
        for name, table in tables.items():
            if (chosen := getattr(self, name)) not in table:
                raise ValueError(f"{name}={chosen!r} does not exist; choose one of {', '.join(table)}.")
        self._check_used()
        for name in ("mlm_weight", "sop_weight", "bow_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}.")
        if not self.mlm_weight and not self.sop_weight:
            raise ValueError(
                "mlm_weight and sop_weight are both 0: there is nothing to learn, since bags of words need one of them."
            )
        for name in ("mlm_probability", "final_mlm_probability"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}.")

    def _check_used(self) -> None:
        defaults = {each.name: each.default for each in fields(self)}
        for name in OBJECTIVES[self.objective]:
            value = getattr(self, name)
            if value != defaults[name] and not (name in DISABLED and value == 0):
                raise ValueError(f"{name}={value!r} has no effect with objective={self.objective!r}; leave one out.")
        for name in DISABLED:
            if name in OBJECTIVES[self.objective]:
                object.__setattr__(self, name, 0.0)

    @property
    def masked_share(self) -> float:
        """The share of tokens to predict: at the start of the training, or on average if it differs between texts."""
        if self.objective == "diffusion":
            return 0.5
        return self.mlm_probability if self.mlm_weight else 0.0

    def probability(self, progress: float) -> float:
        """Return the share of tokens to predict, given the completed share of the training."""
        moved = MASK_SCHEDULES[self.mlm_schedule](progress)
        return self.mlm_probability + moved * (self.final_mlm_probability - self.mlm_probability)
