"""Training examples that are drawn anew in each epoch, such as those with random masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import TrainerCallback

Draw = Callable[[Mapping[str, Any], np.random.Generator], list[dict[str, Any]]]


class Draws(Dataset[dict[str, Any]]):
    """Training examples whose random changes depend on the seed, the epoch and the batch.

    They do not depend on the state of random numbers, which changes as a data loader reads ahead, so a run that resumes
    within an epoch has the same examples. The `Trainer` needs the callback `CurrentEpoch`.

    Args:
        inputs: The examples, as a `datasets.Dataset`.
        draw: Returns the examples of a batch, given its columns and the source of randomness.
        seed: The seed of the training.
    """

    def __init__(self, inputs: Any, draw: Draw, seed: int) -> None:
        self.inputs, self.draw, self.seed = inputs, draw, seed
        # Workers of a `DataLoader` that live for several epochs also see it.
        self.epoch = torch.zeros((), dtype=torch.long).share_memory_()

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """Return the examples of a batch."""
        rng = np.random.default_rng([self.seed, int(self.epoch), *indices])
        return self.draw(self.inputs[indices], rng)


class CurrentEpoch(TrainerCallback):
    """A callback that tells `Draws` the epoch.

    Args:
        draws: The training examples.
    """

    def __init__(self, draws: Draws) -> None:
        self.draws = draws

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the epoch."""
        self.draws.epoch.fill_(int(state.epoch or 0))
