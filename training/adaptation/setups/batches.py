"""What the batches of a training hold: examples that are drawn anew in each epoch, random masks, and near pairs.

In a batch of texts about different things, it is easy to find the second text of each pair. If `adapt --task embedding`
makes pairs from texts, the second texts of a batch are therefore near to each other by the encoder's own vectors from
before the training.

Shapes: N pairs, D channels, B examples of a batch.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, Dataset
from transformers import PreTrainedTokenizerBase, TrainerCallback

from ....command_line import UsageError

Draw = Callable[[Mapping[str, Any], np.random.Generator], list[dict[str, Any]]]
# The number of pairs whose vectors are computed at once, and among which batches are chosen.
_WINDOW = 4096
# The number of texts to encode in a batch.
_ENCODED = 64


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


class NearBatches(BatchSampler):
    """Batches of pairs whose second texts are near to each other. No text is in a batch twice.

    Each epoch draws its windows of pairs anew, and splits each of them in two, along the line through two random texts,
    until the parts are batches.

    Args:
        pairs: The pairs of texts.
        vectors_of: Computes the vectors (N, D) of N texts.
        batch_size: The number of pairs in a batch.
        drop_last: Whether to leave out batches with fewer pairs.
        seed: Chooses the order.
        used: The number of pairs that a training uses, if it ends within the first window.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[str, str]],
        vectors_of: Callable[[list[str]], np.ndarray],
        batch_size: int,
        drop_last: bool,
        seed: int,
        used: int = _WINDOW,
    ) -> None:
        super().__init__(range(len(pairs)), batch_size, drop_last)
        self.pairs, self.vectors_of, self.seed, self.epoch = pairs, vectors_of, seed, 0
        # Whole batches, because a part with fewer pairs would shift those after it.
        self.window = max(1, min(_WINDOW, used) // batch_size) * batch_size

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the epoch, which changes the order."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the numbers of the pairs of each batch."""
        rng = np.random.default_rng((self.seed, self.epoch))
        waiting: deque[int] = deque()
        order = rng.permutation(len(self.pairs))
        for first in range(0, len(order), self.window):
            window = order[first : first + self.window]
            vectors = self.vectors_of([self.pairs[number][1] for number in window])
            *parts, last = _near_parts(vectors, np.arange(len(window)), self.batch_size, rng)
            rng.shuffle(parts)
            waiting.extend(window[np.concatenate([*parts, last])].tolist())
            is_last = first + self.window >= len(order)
            while waiting:
                batch = self._without_duplicates(waiting)
                is_full = len(batch) == self.batch_size
                if not (is_full or is_last):
                    # The next window fills it.
                    waiting.extendleft(reversed(batch))
                    break
                if is_full or not self.drop_last:
                    yield batch

    def _without_duplicates(self, waiting: deque[int]) -> list[int]:
        """Take the pairs of a batch from the start of those that wait, and leave out those with texts that it has."""
        batch: list[int] = []
        left: list[int] = []
        texts: set[str] = set()
        while waiting and len(batch) < self.batch_size:
            number = waiting.popleft()
            taken = texts.isdisjoint(self.pairs[number])
            (batch if taken else left).append(number)
            if taken:
                texts.update(self.pairs[number])
        waiting.extendleft(reversed(left))
        return batch


def _near_parts(vectors: np.ndarray, rows: np.ndarray, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Split rows of vectors (N, D) into parts of a size, of which the last may have fewer rows, that are near."""
    if len(rows) <= size:
        return [rows]
    one, other = rng.choice(rows, 2, replace=False)
    rows = rows[np.argsort(vectors[rows] @ (vectors[one] - vectors[other]), kind="stable")]
    middle = max(1, len(rows) // size // 2) * size
    return [part for half in (rows[:middle], rows[middle:]) for part in _near_parts(vectors, half, size, rng)]


def with_near_batches(trainer_class: Any, start: Any) -> Any:
    """Return a subclass of a trainer of sentence-transformers that trains on batches of near pairs.

    Args:
        trainer_class: The trainer.
        start: A copy of the model before the training, whose vectors tell which pairs are near.
    """

    class NearTrainer(trainer_class):
        # The mean seconds that the vectors of a step take. Most steps do not wait for them.
        seconds_of_vectors = 0.0

        def get_batch_sampler(self, dataset: Any, batch_size: int, drop_last: bool, **kwargs: Any) -> Any:
            pairs, args = list(zip(dataset["text"], dataset["text_pair"], strict=True)), self.args
            # All processes choose all batches, of which each takes its own.
            self._pairs_of_step = batch_size * args.gradient_accumulation_steps * args.world_size
            of_epochs = math.ceil(args.num_train_epochs * len(pairs))
            used = args.max_steps * self._pairs_of_step if args.max_steps > 0 else of_epochs
            return NearBatches(pairs, self._vectors_of, batch_size, drop_last, args.seed, used)

        def _vectors_of(self, texts: list[str]) -> np.ndarray:
            started, device = time.perf_counter(), self.args.device
            with torch.autocast(device.type, torch.bfloat16, enabled=self.args.bf16):
                found: np.ndarray = start.encode(
                    texts, batch_size=_ENCODED, show_progress_bar=False, device=str(device)
                )
            self.seconds_of_vectors = (time.perf_counter() - started) / len(texts) * self._pairs_of_step
            return found

    return NearTrainer
