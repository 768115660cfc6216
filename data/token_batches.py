"""Batches of about as many tokens each, and not of as many texts: a step then takes as long as the others.

Without padding the cost of a batch is its real tokens. Texts of a batch have similar lengths, which attention on a CPU
takes together, and what is padded around the encoder (labels, logits) stays small.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

from .batching import token_batches

# Batches whose texts are drawn together and sorted by length: few would mix lengths, all would lose the chance order.
POOL = 64


class TokenBudgetBatchSampler(Sampler[list[int]]):
    """Indices in batches of at most `max_tokens` tokens, for the `batch_sampler` of a `DataLoader`.

    Every epoch draws other batches, as many for each process; each iteration to the end is an epoch. With Accelerate,
    which divides batches among processes itself, leave `num_replicas` and `rank` alone, and go on after an interruption
    as with any other loader: `loader.set_epoch(epoch)` and `accelerate.skip_first_batches(loader, batches)`. Otherwise
    `start_at` goes on where you were.

    Args:
        lengths: tokens of each example.
        max_tokens: of a batch, unless a single example has more.
        shuffle: whether examples and batches come in random order.
        seed: of that order; the same in all processes.
        drop_last: where batches do not divide evenly among processes, leave some out, and do not repeat some.
        num_replicas: number of processes.
        rank: which of them this is.

    Raises:
        ValueError: for numbers that are not allowed.
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
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {max_tokens}.")
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
        """Itself: where Accelerate looks for what has `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next iteration; called by Accelerate, or by you."""
        if epoch != self.epoch:
            self.epoch, self.first = epoch, 0

    def start_at(self, epoch: int, batch: int) -> None:
        """Lets the next iteration begin with a batch of an epoch: after as many as were trained on.

        How many were handed out does not tell, since loaders fetch some in advance.
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
        """The batches of this process in this epoch, drawn once: loaders ask for their number again and again."""
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
    """Indices in batches of at most `max_tokens` tokens, about in the given order, of similar lengths in a batch."""
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
    """A dataset whose items are whole batches of another one, for a `Trainer` as it is.

    The `Trainer` shuffles the batches, divides them among processes and goes on with them after an interruption, as it
    does with examples. Give it `per_device_train_batch_size=1` and `data_collator=TokenBudgetCollator(…)`. Evaluate on
    the examples themselves: the collator takes them too, and a `Trainer` counts predictions by the items of a dataset.

    Args:
        dataset: of examples with `input_ids`.
        max_tokens: of a batch, unless a single example has more.
        seed: of which examples meet in a batch.

    Raises:
        ValueError: if `max_tokens` is not at least 1.
    """

    def __init__(self, dataset: Any, max_tokens: int, seed: int = 0) -> None:
        lengths = [len(example["input_ids"]) for example in dataset]
        sampler = TokenBudgetBatchSampler(lengths, max_tokens, seed=seed)
        self.dataset, self.batches = dataset, list(sampler)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> list[Any]:
        return [self.dataset[i] for i in self.batches[index]]


class TokenBudgetCollator:
    """The collator for a `TokenBudgetDataset`, around that of the examples.

    Args:
        collate: for the examples of a batch, such as `DataCollatorWithPadding`.
        columns: what to keep of an example; all if None. `Trainer` itself removes columns from single examples only.
    """

    def __init__(self, collate: Callable[[list[Any]], Any], columns: Sequence[str] | None = None) -> None:
        self.collate, self.columns = collate, columns

    def __call__(self, batches: list[Any]) -> Any:
        """Collates all examples of the batches, one of them as a rule, into one; single examples too."""
        examples = list(itertools.chain.from_iterable(item if isinstance(item, list) else [item] for item in batches))
        if self.columns is not None:
            examples = [{name: example[name] for name in self.columns if name in example} for example in examples]
        return self.collate(examples)
