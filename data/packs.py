"""Windows packed with no padding into budgets of tokens, for a `Trainer` as it is.

Without padding the cost of a batch is its real tokens, so a step takes as long as any other. What is drawn (which
windows meet, the order of an epoch, later the masks) follows from a seed and a place in the order alone: the same
wherever training goes on, and in however many processes.
"""

from __future__ import annotations

import functools
from array import array
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Generic, TypedDict, TypeVar

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from .windows import Window

T = TypeVar("T")
# Packs' worth of windows among which the last ones of a pack are looked for.
POOL = 16


@dataclass(eq=False)
class _Waiting(Generic[T]):
    item: T
    length: int
    taken: bool = False


class Pack(TypedDict):
    """Windows of one batch, and all that chance needs to know.

    Attributes:
        windows: they have at most the budget of tokens together.
        seed: of what is drawn for this pack, such as its masks.
        progress: the share of the training that was over before it, 0 to 1.
    """

    windows: list[Window]
    seed: list[int]
    progress: float


def pack(items: Iterable[tuple[T, int]], max_tokens: int) -> Iterator[list[T]]:
    """Groups (item, length) pairs, about in their order, so that nearly all groups have exactly `max_tokens`.

    A group takes items in their order until the next does not fit, then the longest that fit among those that wait.

    Raises:
        ValueError: for an item that is longer than `max_tokens`.
    """
    waiting: deque[_Waiting[T]] = deque()
    by_length: defaultdict[int, deque[_Waiting[T]]] = defaultdict(deque)
    # Bit n is set where an item of length n waits: the longest that fits is then found at once.
    lengths, tokens = 0, 0
    source = iter(items)
    while True:
        for item, length in source:
            if not 0 < length <= max_tokens:
                raise ValueError(f"max_tokens={max_tokens} has no room for a window of {length} tokens.")
            waiting.append(_Waiting(item, length))
            by_length[length].append(waiting[-1])
            lengths |= 1 << length
            tokens += length
            if tokens >= POOL * max_tokens:
                break
        if not tokens:
            return
        group: list[T] = []
        room, in_order = max_tokens, True
        while fitting := lengths & ((2 << room) - 1):
            while waiting[0].taken:
                waiting.popleft()
            in_order = in_order and waiting[0].length <= room
            length = waiting[0].length if in_order else fitting.bit_length() - 1
            # Those of one length wait in the same order, so the first of all is the first of its length.
            taken = by_length[length].popleft() if in_order else by_length[length].pop()
            taken.taken = True
            group.append(taken.item)
            room, tokens = room - length, tokens - length
            if not by_length[length]:
                lengths ^= 1 << length
        yield group


class PackedWindows(Dataset[Pack]):
    """A dataset whose items are packs of windows, for a `Trainer` with `PretrainingCollator`.

    Give `TrainingArguments` `per_device_train_batch_size=1` (packs) and `remove_unused_columns=False`; with
    `train_sampling_strategy="sequential"` the order is that of this dataset, new in every epoch, and known to the
    schedule of masks. Which windows meet in a pack stays the same.

    Args:
        windows: those of `segment_windows`, in a list or a `datasets.Dataset`.
        max_tokens: of a pack, special tokens included.
        seed: of packs, order, and what the collator draws.
        multiple_of: packs of a step on all devices. The last packs of an epoch that make no whole step are left out,
            other ones each time, so that steps are the same in any number of processes; packs are repeated where there
            are not enough for one step.
        show_progress: whether to show a bar if packing takes longer than a moment.

    Raises:
        ValueError: if there is no window, or `max_tokens` has no room for one.
    """

    def __init__(
        self,
        windows: Any,
        max_tokens: int,
        seed: int = 0,
        multiple_of: int = 1,
        show_progress: bool = True,
    ) -> None:
        lengths = lengths_of(windows)
        if not len(lengths):
            raise ValueError("windows is empty: there is nothing to pack.")
        self.windows, self.max_tokens, self.seed = windows, max_tokens, seed
        order = np.random.default_rng(seed).permutation(len(lengths))
        bar = tqdm(order, desc="Packing", unit="window", delay=2, disable=not show_progress)
        # One after the other in one array, since lists would take ten times the memory.
        self._members, ends = array("q"), array("q", [0])
        for members in pack(((int(index), int(lengths[index])) for index in bar), max_tokens):
            self._members.extend(members)
            ends.append(len(self._members))
        self._ends = np.array(ends)
        self.tokens = int(lengths.sum())
        self.digest = blake2b(lengths.astype("<i4").tobytes(), digest_size=8).hexdigest()
        self.count = len(ends) - 1
        self.length = max(self.count - self.count % multiple_of, multiple_of)
        self.total = self.length
        # Shared, as workers that outlive an epoch would not see another one otherwise.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """Which order it is in."""
        return int(self._epoch)

    @property
    def fullness(self) -> float:
        """The share of the budgets that is filled."""
        return self.tokens / (self.count * self.max_tokens)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order, and what is drawn; called by Accelerate."""
        self._epoch.fill_(epoch)

    def plan(self, total: int) -> None:
        """Tells how many packs the whole training will have, for schedules by progress; by default one epoch."""
        self.total = total

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Pack:
        if not 0 <= index < self.length:
            raise IndexError(f"index must be from 0 to {self.length - 1}, got {index}.")
        epoch = self.epoch
        place = int(_permutation(self.count, self.seed, epoch)[index % self.count])
        members = list(self._members[self._ends[place] : self._ends[place + 1]])
        number = epoch * self.length + index
        return {
            "windows": windows_at(self.windows, members),
            "seed": [self.seed, epoch, index],
            "progress": min(1.0, number / self.total),
        }


class EvaluationWindows(Dataset[Pack]):
    """Windows to evaluate on, one an item, with the same masks each time: a `Trainer` counts predictions by items.

    Args:
        windows: those of `segment_windows`, in a list or a `datasets.Dataset`.
        seed: of what the collator draws.
    """

    def __init__(self, windows: Any, seed: int = 0) -> None:
        self.windows, self.seed = windows, seed

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Pack:
        return {"windows": [self.windows[index]], "seed": [self.seed, index], "progress": 0.0}


@functools.lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)


def lengths_of(windows: Any) -> np.ndarray:
    """The length of each window, of a list or of a `datasets.Dataset`."""
    if hasattr(windows, "with_format"):
        return np.asarray(windows.with_format("numpy")["length"][:])
    return np.array([window["length"] for window in windows])


def windows_at(windows: Any, places: list[int]) -> list[Window]:
    """Several windows at once, which is how a `datasets.Dataset` is read fast."""
    if hasattr(windows, "__getitems__"):
        return windows.__getitems__(places)
    return [windows[place] for place in places]
