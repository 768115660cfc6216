"""Packs windows without padding into token budgets, for an unmodified `Trainer`.

Without padding, the cost of a batch depends on its number of real tokens, so all steps take about the same time.
Everything random (which windows share a pack, the order of an epoch, the masks) depends only on the seed and on the
position in the training. A resumed run, or one with a different number of processes, therefore draws the same.
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

from ..command_line.progress import Progress, counted_by
from .windows import Window

T = TypeVar("T")
# Size of the pool of waiting windows that fill up a pack, in packs.
POOL = 16


@dataclass(eq=False)
class _Waiting(Generic[T]):
    item: T
    length: int
    taken: bool = False


class Pack(TypedDict):
    """The windows of one batch, and what the collator needs to draw its masks.

    Attributes:
        windows: The windows, which fit the token budget together.
        seed: The seed of everything random in this pack, such as its masks.
        progress: The share of all training that precedes this pack, from 0 to 1.
    """

    windows: list[Window]
    seed: list[int]
    progress: float


def pack(items: Iterable[tuple[T, int]], max_tokens: int) -> Iterator[list[T]]:
    """Group (item, length) pairs so that nearly all groups have exactly `max_tokens`, roughly in their order.

    A group takes items in order until the next one does not fit, and then the longest waiting items that fit.

    Raises:
        ValueError: If an item is longer than `max_tokens`.
    """
    waiting: deque[_Waiting[T]] = deque()
    by_length: defaultdict[int, deque[_Waiting[T]]] = defaultdict(deque)
    # Bit n is set if an item of length n waits, so the longest that fits is found in one operation.
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
            # Items of one length wait in order, so the first of all items is also the first of its length.
            taken = by_length[length].popleft() if in_order else by_length[length].pop()
            taken.taken = True
            group.append(taken.item)
            room, tokens = room - length, tokens - length
            if not by_length[length]:
                lengths ^= 1 << length
        yield group


class PackedWindows(Dataset[Pack]):
    """A dataset whose items are packs of windows, for a `Trainer` with `PretrainingCollator`.

    Set `per_device_train_batch_size=1` (pack) and `remove_unused_columns=False` in `TrainingArguments`. With
    `train_sampling_strategy="sequential"`, this dataset determines the order, which changes every epoch, and the mask
    schedule can follow the progress. The windows in a pack stay the same in all epochs.

    Args:
        windows: The windows of `segment_windows`, in a list or a `datasets.Dataset`.
        max_tokens: The token budget of a pack, including special tokens.
        seed: The seed of the packs, their order, and what the collator draws.
        multiple_of: The number of packs in a step on all devices. The last packs of an epoch are dropped if they do not
            fill a step, so that the steps are the same for any number of processes; each epoch drops different packs.
            If there are too few packs for one step, they repeat.
        show_progress: Whether to show a progress bar if packing takes longer than two seconds.

    Raises:
        ValueError: If `windows` is empty, or if a window is longer than `max_tokens`.
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
        bar = counted_by(Progress("Packing", len(order), "window", show=show_progress), order)
        # One flat array, because lists would take ten times the memory.
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
        # In shared memory, so that persistent workers see the current epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """The current epoch, which determines the order."""
        return int(self._epoch)

    @property
    def fullness(self) -> float:
        """The share of all token budgets that is filled."""
        return self.tokens / (self.count * self.max_tokens)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines the order and the masks. Accelerate calls this."""
        self._epoch.fill_(epoch)

    def plan(self, total: int) -> None:
        """Set the number of packs in the whole training, from which progress is computed. Defaults to one epoch."""
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
    """An evaluation dataset with one window per item, because `Trainer` counts predictions by items.

    The masks are the same in every evaluation.

    Args:
        windows: The windows of `segment_windows`, in a list or a `datasets.Dataset`.
        seed: The seed of what the collator draws.
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
    """Return the length of each window in a list or a `datasets.Dataset`."""
    if hasattr(windows, "with_format"):
        return np.asarray(windows.with_format("numpy")["length"][:])
    return np.array([window["length"] for window in windows])


def windows_at(windows: Any, places: list[int]) -> list[Window]:
    """Return several windows at once, which is the fast way to read a `datasets.Dataset`."""
    if hasattr(windows, "__getitems__"):
        return windows.__getitems__(places)
    return [windows[place] for place in places]
