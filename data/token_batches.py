"""Batches with about the same number of tokens, instead of the same number of texts.

Without padding, the cost of a batch depends on its number of real tokens, so all steps take about the same time. The
texts of a batch have similar lengths, because attention on a CPU groups texts of equal length and because labels and
logits are padded.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

from .argument_checks import check_count
from .batching import token_batches

# Number of batches whose texts are sorted by length together. Fewer would mix lengths within a batch; with all of them,
# the order would hardly be random.
POOL = 64


class TokenBudgetBatchSampler(Sampler[list[int]]):
    """A `batch_sampler` for a `DataLoader`: batches of indices with at most `max_tokens` tokens.

    Each complete iteration is an epoch, with different batches. All processes get the same number of batches.
    Accelerate divides the batches among processes itself: leave `num_replicas` and `rank` at their defaults, and resume
    as with any other loader, with `loader.set_epoch(epoch)` and `accelerate.skip_first_batches(loader, batches)`.
    Without Accelerate, resume with `start_at`.

    Args:
        lengths: The number of tokens in each example.
        max_tokens: The token budget of a batch. A single longer example gets its own batch.
        shuffle: Whether to shuffle examples and batches.
        seed: The seed of the shuffling, the same in all processes.
        drop_last: Whether to drop batches that do not divide evenly among processes, instead of repeating some.
        num_replicas: The number of processes.
        rank: The index of this process.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        max_tokens: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        check_count(max_tokens, "max_tokens")
        if num_replicas < 1 or not 0 <= rank < num_replicas:
            raise ValueError(f"rank must be from 0 to num_replicas - 1, got rank={rank}, num_replicas={num_replicas}.")
        self.lengths, self.max_tokens = [int(length) for length in lengths], max_tokens
        if min(self.lengths, default=1) < 1:
            raise ValueError(f"lengths must be at least 1, got {min(self.lengths)}.")
        self.shuffle, self.seed, self.drop_last = shuffle, seed, drop_last
        self.num_replicas, self.rank = num_replicas, rank
        self.epoch, self.first = 0, 0
        self._drawn: tuple[int, list[list[int]]] | None = None

    @property
    def sampler(self) -> TokenBudgetBatchSampler:
        """The sampler itself, because Accelerate calls `set_epoch` on the `sampler` attribute."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration. Accelerate calls this; otherwise, you do."""
        if epoch != self.epoch:
            self.epoch, self.first = epoch, 0

    def start_at(self, epoch: int, batch: int) -> None:
        """Start the next iteration at a batch of an epoch.

        Args:
            epoch: The epoch to resume in.
            batch: The number of batches of that epoch that were trained on. Count them yourself, because loaders fetch
                batches in advance.
        """
        self.epoch, self.first = epoch, batch

    def __len__(self) -> int:
        return len(self._batches())

    def __iter__(self) -> Iterator[list[int]]:
        batches, epoch = self._batches()[self.first :], self.epoch
        self.first = 0
        yield from batches
        self.epoch = epoch + 1

    def _batches(self) -> list[list[int]]:
        """Return the batches of this process in this epoch, drawn only once because loaders often ask for `len`."""
        if self._drawn is None or self._drawn[0] != self.epoch:
            self._drawn = self.epoch, self._draw()
        return self._drawn[1]

    def _draw(self) -> list[list[int]]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        count = len(self.lengths)
        order = torch.randperm(count, generator=generator).tolist() if self.shuffle else list(range(count))
        batches = budget_batches(self.lengths, order, self.max_tokens)
        if self.shuffle:
            batches = [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
        uneven = len(batches) % self.num_replicas
        if uneven and self.drop_last:
            batches = batches[:-uneven]
        elif uneven:
            batches += list(itertools.islice(itertools.cycle(batches), self.num_replicas - uneven))
        return batches[self.rank :: self.num_replicas]


def budget_batches(lengths: Sequence[int], order: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Group indices into batches of similar lengths with at most `max_tokens` tokens, roughly in the given order."""
    batches: list[list[int]] = []
    pool: list[int] = []
    tokens = 0
    for index in order:
        pool.append(index)
        tokens += lengths[index]
        if tokens >= POOL * max_tokens:
            batches += [[pool[i] for i in batch] for batch in token_batches([lengths[i] for i in pool], max_tokens)]
            pool, tokens = [], 0
    return batches + [[pool[i] for i in batch] for batch in token_batches([lengths[i] for i in pool], max_tokens)]


class TokenBudgetDataset(Dataset[list[Any]]):
    """A dataset whose items are whole batches of another dataset, for an unmodified `Trainer`.

    The `Trainer` shuffles the batches, divides them among processes and resumes with them, as it does with examples.
    Set `per_device_train_batch_size=1` and `data_collator=TokenBudgetCollator(…)`. Evaluate on the original dataset:
    the collator accepts single examples, and `Trainer` counts predictions by the items of a dataset.

    Args:
        dataset: A dataset of examples with `input_ids`.
        max_tokens: The token budget of a batch. A single longer example gets its own batch.
        seed: The seed that determines which examples share a batch.
        lengths: The number of tokens in each example. By default, all examples are read to count them.

    Raises:
        ValueError: If `max_tokens` is less than 1.
    """

    def __init__(self, dataset: Any, max_tokens: int, seed: int = 0, lengths: Sequence[int] | None = None) -> None:
        if lengths is None:
            lengths = [len(example["input_ids"]) for example in dataset]
        sampler = TokenBudgetBatchSampler(lengths, max_tokens, seed=seed)
        self.dataset, self.batches = dataset, list(sampler)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> list[Any]:
        batch = self.batches[index]
        if hasattr(self.dataset, "__getitems__"):
            # A dataset of `datasets` reads several examples faster at once.
            return list(self.dataset.__getitems__(batch))
        return [self.dataset[i] for i in batch]


class TokenBudgetCollator:
    """A collator for a `TokenBudgetDataset` that wraps the collator of its examples.

    Args:
        collate: The collator of the examples, such as `DataCollatorWithPadding`.
        columns: The columns of an example to keep, or None for all. `Trainer` removes unused columns only from single
            examples, not from the examples in a batch.
    """

    def __init__(self, collate: Callable[[list[Any]], Any], columns: Sequence[str] | None = None) -> None:
        self.collate, self.columns = collate, columns

    def __call__(self, batches: list[Any]) -> Any:
        """Collate single examples, or the examples of one or more batches, into one batch."""
        examples = list(itertools.chain.from_iterable(item if isinstance(item, list) else [item] for item in batches))
        if self.columns is not None:
            examples = [{name: example[name] for name in self.columns if name in example} for example in examples]
        return self.collate(examples)
