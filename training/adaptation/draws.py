"""Training examples that are drawn anew in each epoch, such as those with random masks.

Shapes: B texts of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase, TrainerCallback

from ...command_line import UsageError

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
    """A callback that tells `Draws` the epoch."""

    def __init__(self, draws: Draws) -> None:
        self.draws = draws

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the epoch."""
        self.draws.epoch.fill_(int(state.epoch or 0))


class RandomMasks:
    """Masks random tokens of half of the texts of each batch, for `Draws` (masked fine-tuning, Madsen et al., 2023).

    Explanations remove words by masks. A model that has never seen masks in fine-tuning may do anything with them. Each
    of these texts has its own rate, drawn uniformly from 0 to 1. Special tokens stay.

    Args:
        tokenizer: The tokenizer of the model.

    Raises:
        UsageError: If it has no mask token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if tokenizer.mask_token_id is None:
            raise UsageError("--masked_tuning needs a tokenizer with a mask token, and the model's tokenizer has none.")
        self.mask_id: Any = tokenizer.mask_token_id
        # A word that the vocabulary lacks is masked like others.
        self.kept = sorted({*tokenizer.all_special_ids} - {tokenizer.unk_token_id})

    def __call__(self, batch: Mapping[str, Any], rng: np.random.Generator) -> list[dict[str, Any]]:
        """Return B examples, with masks in half of them; for a single one, with a chance of one half."""
        rows = [dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True)]
        count = (len(rows) + int(rng.integers(2))) // 2
        for index in rng.permutation(len(rows))[:count]:
            ids = np.asarray(rows[index]["input_ids"])
            masked = (rng.random(len(ids)) < rng.random()) & ~np.isin(ids, self.kept)
            rows[index]["input_ids"] = np.where(masked, self.mask_id, ids).tolist()
        return rows
