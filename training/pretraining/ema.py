"""An exponential moving average of the weights: what a training ends with is then less of its last steps alone."""

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
    """Averages the weights after every step, and puts the average in their place when training ends.

    The share of the past is `decay`, less at the start: (1 + step) / (10 + step). In checkpoints the average is beside
    the weights, sharded if they are, and loads in any number of processes.

    Args:
        decay: the share of the past, in (0, 1).
        resume_from: the checkpoint that training goes on from.

    Raises:
        ValueError: if `decay` is out of its range.
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
        """Starts with the weights, or with the average of a checkpoint."""
        weights = dict(_weights(kwargs["model"]))
        self.average = {name: weight.detach().clone() for name, weight in weights.items()}
        if self.resume_from is not None:
            with _of_one_process():
                checkpoint.load(self.average, checkpoint_id=self.resume_from / _FOLDER)

    @torch.no_grad()
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Moves the average."""
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        for name, weight in _weights(kwargs["model"]):
            self.average[name].lerp_(weight, 1 - decay)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Saves the average with the checkpoint."""
        folder = checkpoint_at(args, state) / _FOLDER
        with _of_one_process():
            checkpoint.save(self.average, checkpoint_id=folder)

    @torch.no_grad()
    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Gives the weights the values of the average."""
        for name, weight in _weights(kwargs["model"]):
            weight.copy_(self.average[name])


@contextmanager
def _of_one_process() -> Iterator[None]:
    """Without the warning that one process alone saves and loads, which is meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is ")
        yield


def _weights(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
