"""Callbacks that end a training with a mean of weights: of all steps, or of those before and after the training."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed import checkpoint as distributed_checkpoint
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import TrainerCallback

from .checkpoints import checkpoint_at


class TowardsStart(TrainerCallback):
    """Callback that ends a training with a mean of the weights before and after it.

    Such a mean keeps more of what a model could do than the trained weights do, and most of what these have learned
    (WiSE-FT, Wortsman et al., 2022, arXiv:2109.01903).

    Args:
        start: The weights before the training, also where the training is resumed, in the order of the parameters.
        share: Their share, from 0 to 1.
    """

    def __init__(self, start: Iterable[torch.Tensor], share: float) -> None:
        self.start, self.share = list(start), share

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Average the weights."""
        self.average(kwargs["model"])

    @torch.no_grad()
    def average(self, model: torch.nn.Module) -> None:
        """Average the weights of a model, which may be sharded, with those before the training."""
        for weight, start in zip(model.parameters(), self.start, strict=True):
            before = start.to(weight.device, weight.dtype)
            if isinstance(weight, DTensor) and not isinstance(before, DTensor):
                before = distribute_tensor(before, weight.device_mesh, weight.placements)
            weight.lerp_(before, self.share)


class ExponentialMovingAverage(TrainerCallback):
    """Callback that averages the weights after every step, and replaces them by the average when training ends.

    The decay starts lower and is min(`decay`, (1 + step) / (10 + step)). Checkpoints hold the average beside the
    weights. It is sharded if they are, and loads in any number of processes.

    Args:
        decay: The decay of the average, in (0, 1).
        resume_from: The checkpoint that training resumes from.
    """

    def __init__(self, decay: float, resume_from: Path | None = None) -> None:
        self.decay, self.resume_from = decay, resume_from
        self.average: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Initialise the average with the weights, or load it from the checkpoint."""
        weights = dict(_weights(kwargs["model"]))
        self.average = {name: weight.detach().clone() for name, weight in weights.items()}
        if self.resume_from is not None:
            with _of_one_process():
                distributed_checkpoint.load(self.average, checkpoint_id=self.resume_from / "ema")

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Update the average."""
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        for name, weight in _weights(kwargs["model"]):
            self.average[name].lerp_(weight, 1 - decay)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save the average with the checkpoint."""
        folder = checkpoint_at(args, state) / "ema"
        with _of_one_process():
            distributed_checkpoint.save(self.average, checkpoint_id=folder)

    @torch.no_grad()
    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
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
