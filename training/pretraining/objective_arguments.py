"""The arguments of the objectives of pretraining: their weights, and how many tokens are predicted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

# How the share of predicted tokens goes from the first to the last, by the progress of the training.
MASK_SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 0.0,
    "linear": lambda progress: progress,
    "cosine": lambda progress: (1 - math.cos(math.pi * progress)) / 2,
}


@dataclass(frozen=True)
class Objectives:
    """What a model learns from.

    Args:
        mlm_weight: of the loss of masked tokens in the sum; 0 masks nothing.
        sop_weight: of the loss of sentence order; 0 leaves it out.
        mlm_probability: the share of tokens to predict; of these 80 % are masked, 10 % replaced and 10 % kept.
        final_mlm_probability: that share at the end of the training, where the schedule is not "constant".
        mlm_schedule: how it goes there, "constant", "linear" or "cosine" (fewer masks late: Yang et al., 2023).
        whole_word_mask: whether all tokens of a word are predicted, or none.

    Raises:
        ValueError: for numbers and names that are not allowed.
    """

    _argument_group_name = "objectives"

    mlm_weight: float = field(default=1.0, metadata={"help": "Weight of the loss of masked tokens; 0 masks nothing."})
    sop_weight: float = field(default=1.0, metadata={"help": "Weight of the loss of sentence order; 0 leaves it out."})
    mlm_probability: float = field(default=0.3, metadata={"help": "Share of tokens to predict."})
    final_mlm_probability: float = field(
        default=0.15, metadata={"help": "Share of tokens to predict at the end, unless --mlm_schedule is constant."}
    )
    mlm_schedule: str = field(
        default="constant", metadata={"help": "How that share changes.", "choices": list(MASK_SCHEDULES)}
    )
    whole_word_mask: bool = field(default=False, metadata={"help": "Predict all tokens of a word, or none."})

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
        """The share of tokens to predict when a share of the training is over."""
        moved = MASK_SCHEDULES[self.mlm_schedule](progress)
        return self.mlm_probability + moved * (self.final_mlm_probability - self.mlm_probability)
