"""An exponential moving average of the weights, which smooths out the noise of the last steps."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed import checkpoint
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..checkpoints import checkpoint_at

_FOLDER = "ema"


class ExponentialMovingAverage(TrainerCallback):
    """Callback that averages the weights after every step, and replaces them by the average when training ends.

    The decay starts lower and is min(`decay`, (1 + step) / (10 + step)). Checkpoints hold the average beside the
    weights. It is sharded if they are, and loads in any number of processes.

    Args:
        decay: The decay of the average, in (0, 1).
        resume_from: The checkpoint that training resumes from.

    Raises:
        ValueError: If `decay` is out of range.
    """

    def __init__(self, decay: float, resume_from: Path | None = None) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"decay must be between 0 and 1, got {decay}.")
        self.decay, self.resume_from = decay, resume_from
        self.average: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Initialise the average with the weights, or load it from the checkpoint."""
        weights = dict(_weights(kwargs["model"]))
        self.average = {name: weight.detach().clone() for name, weight in weights.items()}
        if self.resume_from is not None:
            with _of_one_process():
                checkpoint.load(self.average, checkpoint_id=self.resume_from / _FOLDER)

    @torch.no_grad()
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Update the average."""
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        for name, weight in _weights(kwargs["model"]):
            self.average[name].lerp_(weight, 1 - decay)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save the average with the checkpoint."""
        folder = checkpoint_at(args, state) / _FOLDER
        with _of_one_process():
            checkpoint.save(self.average, checkpoint_id=folder)

    @torch.no_grad()
    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Replace the weights by the average."""
        for name, weight in _weights(kwargs["model"]):
            weight.copy_(self.average[name])


@contextmanager
def _of_one_process() -> Iterator[None]:
    """Silence the warning that a single process saves and loads, which is intended."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is ")
        yield


def _weights(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
