"""The arguments of the pretraining objectives: their weights, and the share of masked tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

# The progress of the masking probability from its initial to its final value, by the progress of the training.
MASK_SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 0.0,
    "linear": lambda progress: progress,
    "cosine": lambda progress: (1 - math.cos(math.pi * progress)) / 2,
}


@dataclass(frozen=True)
class Objectives:
    """The objectives of pretraining.

    Args:
        mlm_weight: The weight of the masked language modelling loss; 0 disables masking.
        sop_weight: The weight of the sentence order loss; 0 disables this objective.
        mlm_probability: The share of tokens to predict. Of these, 80 % are masked, 10 % replaced and 10 % kept.
        final_mlm_probability: The share at the end of training, unless the schedule is "constant".
        mlm_schedule: The schedule of the share, "constant", "linear" or "cosine". A share that falls during training
            follows Yang et al. (2023).
        whole_word_mask: Whether to predict either all tokens of a word or none.

    Raises:
        ValueError: If a number or a name is not allowed.
    """

    _argument_group_name = "objectives"

    mlm_weight: float = field(default=1.0, metadata={"help": "Weight of the masked token loss; 0 disables masking."})
    sop_weight: float = field(default=1.0, metadata={"help": "Weight of the sentence order loss; 0 disables it."})
    mlm_probability: float = field(default=0.3, metadata={"help": "Share of tokens to predict."})
    final_mlm_probability: float = field(
        default=0.15,
        metadata={"help": "Share of tokens to predict at the end of training, unless --mlm_schedule is constant."},
    )
    mlm_schedule: str = field(
        default="constant",
        metadata={"help": "How that share changes during training.", "choices": list(MASK_SCHEDULES)},
    )
    whole_word_mask: bool = field(default=False, metadata={"help": "Predict either all tokens of a word or none."})

    def __post_init__(self) -> None:
        for name in ("mlm_weight", "sop_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}.")
        if not self.mlm_weight and not self.sop_weight:
            raise ValueError("mlm_weight and sop_weight are both 0: there is nothing to learn.")
        for name in ("mlm_probability", "final_mlm_probability"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}.")
        if self.mlm_schedule not in MASK_SCHEDULES:
            raise ValueError(
                f"mlm_schedule={self.mlm_schedule!r} does not exist; choose one of {', '.join(MASK_SCHEDULES)}."
            )

    def probability(self, progress: float) -> float:
        """Return the share of tokens to predict, given the completed share of the training."""
        moved = MASK_SCHEDULES[self.mlm_schedule](progress)
        return self.mlm_probability + moved * (self.final_mlm_probability - self.mlm_probability)
