"""The queue of a server: which texts of which requests are computed next.

Nothing here waits, starts threads or reads a clock, so that every order can be tested.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

# What remains of the measured tokens and seconds after each batch, so that they cover about the last twenty.
_REMAINS = 0.95
# Tokens and seconds before anything was measured, of a small model on a slow processor.
_FIRST = (500.0, 0.1)


class QueueFullError(Exception):
    """There is no room for a request. At the measured speed, there will be in `seconds`."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"The queue is full; try again in {seconds} s.")
        self.seconds = seconds


class RequestTooLargeError(Exception):
    """A request has more tokens than the whole queue may hold."""


@dataclass(eq=False)
class Work:
    """The texts of one request.

    Attributes:
        group: Texts of different requests can share a batch if their group is equal.
        texts: What the computation takes, one for each text.
        sizes: The number of tokens of each text.
        settled: A future of the event loop on which the request waits.
        check: Sees each result. What it raises fails the request, whose other texts are not computed.
    """

    group: Hashable
    texts: Sequence[Any]
    sizes: Sequence[int]
    settled: asyncio.Future[None] | None = None
    check: Callable[[Any], object] | None = None
    results: list[Any] = field(init=False)
    error: BaseException | None = field(init=False, default=None)
    arrived: float = field(init=False, default=0.0)
    started: float | None = field(init=False, default=None)
    missing: int = field(init=False)
    waiting_tokens: int = field(init=False, default=0)
    dropped: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.results = [None] * len(self.texts)
        self.missing = len(self.texts)


# A text of a request: when it is due, a number that makes the order unambiguous, the request, and its index there.
_Entry = tuple[float, int, Work, int]


@dataclass(frozen=True)
class Batch:
    """Texts of one group to compute together: the request and the index of each, and their number of tokens."""

    group: Hashable
    entries: list[tuple[Work, int]]
    tokens: int

    @property
    def texts(self) -> list[Any]:
        """The texts."""
        return [work.texts[index] for work, index in self.entries]


class WorkQueue:
    """Texts that wait to be computed.

    The order is by the time at which each text would be computed if its request were alone, at the measured speed of
    its model. Short requests therefore pass long ones, and the texts of a long request are spread over many batches.
    The time is fixed when a request arrives, and later requests only pass it until then, so that none waits forever.

    The methods are not thread-safe.

    Args:
        max_tokens: Maximum number of tokens in a batch, unless a single text has more.
        max_queue_tokens: Maximum number of tokens that wait.
        model_of: Takes a group and returns its model. By default, there is only one.
    """

    def __init__(
        self, max_tokens: int, max_queue_tokens: int, model_of: Callable[[Any], Hashable] = lambda group: None
    ) -> None:
        self.max_tokens, self.max_queue_tokens = max_tokens, max_queue_tokens
        self.waiting_tokens = 0
        self._model_of = model_of
        # The tokens and seconds of each model; under None, those of all models.
        self._measured: dict[Hashable, tuple[float, float]] = {}
        self._requests: set[Work] = set()
        self._dropped = 0
        self._heaps: dict[Hashable, list[_Entry]] = {}
        self._numbers = itertools.count()

    @property
    def waiting_requests(self) -> int:
        """Number of requests with texts that wait."""
        return len(self._requests)

    @property
    def speed(self) -> float:
        """Tokens per second."""
        return self._speed(None)

    def add(self, work: Work, now: float) -> None:
        """Add a request with at least one text.

        Raises:
            RequestTooLargeError: If it has more tokens than the queue may hold.
            QueueFullError: If it must be sent again later.
        """
        tokens = sum(work.sizes)
        if tokens > self.max_queue_tokens:
            raise RequestTooLargeError(
                f"The request has {tokens} tokens, but the server accepts at most {self.max_queue_tokens}."
            )
        if (excess := self.waiting_tokens + tokens - self.max_queue_tokens) > 0:
            raise QueueFullError(max(1, math.ceil(excess / self.speed)))
        work.arrived, work.waiting_tokens = now, tokens
        self.waiting_tokens += tokens
        self._requests.add(work)
        heap = self._heaps.setdefault(work.group, [])
        seconds_per_token = 1 / self._speed(self._model_of(work.group))
        done = 0
        for index, size in enumerate(work.sizes):
            done += size
            heapq.heappush(heap, (now + done * seconds_per_token, next(self._numbers), work, index))

    def take(self, now: float) -> Batch | None:
        """Remove the texts to compute next, and return them, or None if none wait."""
        group = min(self._groups(), key=lambda each: self._heaps[each][0][:2], default=None)
        if group is None:
            return None
        heap, tokens = self._heaps[group], 0
        entries: list[tuple[Work, int]] = []
        while heap:
            _, _, work, index = heap[0]
            if work.dropped:
                heapq.heappop(heap)
                continue
            size = work.sizes[index]
            if entries and tokens + size > self.max_tokens:
                break
            heapq.heappop(heap)
            tokens += size
            entries.append((work, index))
            if work.started is None:
                work.started = now
            work.waiting_tokens -= size
            if index == len(work.sizes) - 1:
                self._requests.discard(work)
        if not heap:
            del self._heaps[group]
        self.waiting_tokens -= tokens
        return Batch(group, entries, tokens)

    def drop(self, work: Work) -> None:
        """Forget those texts of a request that still wait."""
        if not work.dropped:
            work.dropped = True
            self.waiting_tokens -= work.waiting_tokens
            work.waiting_tokens = 0
            self._requests.discard(work)
            self._dropped += len(work.sizes)
            # Rarely enough that it costs little, and often enough that clients that leave take no memory.
            if self._dropped > sum(map(len, self._heaps.values())) // 2:
                self._forget()

    def _forget(self) -> None:
        """Remove the texts of dropped requests."""
        self._dropped = 0
        for group, heap in list(self._heaps.items()):
            heap[:] = [entry for entry in heap if not entry[2].dropped]
            heapq.heapify(heap)
            if not heap:
                del self._heaps[group]

    def measure(self, tokens: int, seconds: float, group: Hashable = None) -> None:
        """Take the speed of a batch of a group into account."""
        for model in {None, self._model_of(group)}:
            before, spent = self._measured.get(model, _FIRST)
            self._measured[model] = (_REMAINS * before + tokens, _REMAINS * spent + seconds)

    def _speed(self, model: Hashable) -> float:
        tokens, seconds = self._measured.get(model, _FIRST)
        return tokens / seconds

    def _groups(self) -> list[Hashable]:
        """Return the groups with texts that wait, after removing dropped texts from their heads."""
        for group, heap in list(self._heaps.items()):
            while heap and heap[0][2].dropped:
                heapq.heappop(heap)
            if not heap:
                del self._heaps[group]
        return list(self._heaps)
