"""The tuning methods, and their default hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Tuning:
    """A tuning method.

    Attributes:
        defaults: Training arguments that apply unless the user sets them.
        is_peft: Whether PEFT trains an adapter.
        can_be_merged: Whether the trained weights can be merged into the encoder.
    """

    defaults: Mapping[str, Any] = field(default_factory=dict)
    is_peft: bool = False
    can_be_merged: bool = True


# The fewer weights are trained, the higher the learning rate. With `auto`, the model is trained like with `full`, and
# `cross_validation` may keep the linear model that the training starts from.
TUNINGS: dict[str, Tuning] = {
    "auto": Tuning(),
    "full": Tuning(),
    "head": Tuning({"learning_rate": 3e-3, "num_train_epochs": 10.0}),
    "adapter": Tuning({"learning_rate": 1e-2, "num_train_epochs": 50.0}),
    "lora": Tuning({"learning_rate": 2e-3}, is_peft=True),
    "dora": Tuning({"learning_rate": 2e-3}, is_peft=True),
    "ia3": Tuning({"learning_rate": 1e-2}, is_peft=True),
    "prompt": Tuning({"learning_rate": 1e-2, "num_train_epochs": 10.0}, is_peft=True, can_be_merged=False),
}
