"""Batches of near pairs for `sequence-encoder adapt --task embedding`, where the pairs are made from texts.

In a batch of texts about different things, it is easy to find the second text of each pair. The second texts of a batch
are therefore near to each other by the encoder's own vectors from before the training.

Shapes: N pairs, D channels.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler

# The number of pairs whose vectors are computed at once, and among which batches are chosen.
_WINDOW = 4096
# The number of texts to encode in a batch.
_ENCODED = 64


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
