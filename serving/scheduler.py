"""Computes queued texts in one thread, while new requests arrive."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Hashable, Sequence
from contextlib import suppress
from typing import Any

from .work_queue import Batch, Work, WorkQueue

# Computes the texts of a batch, given their group, and returns a result or an exception for each.
Compute = Callable[[Any, list[Any]], Sequence[Any]]


class DroppedError(Exception):
    """The client has left, or the scheduler was closed, before a request was computed."""


class Scheduler:
    """Computes texts of many requests together, in one thread.

    A batch is never held back until it is full: it consists of what has arrived while the previous one was computed.

    Args:
        queue: The queue, which only this object may use from now on.
        compute: The computation.
        observe: Sees every batch after it was computed, in so many seconds, in the thread that computes.

    Attributes:
        closed: Whether it takes no more requests.
    """

    def __init__(
        self, queue: WorkQueue, compute: Compute, observe: Callable[[Batch, float], object] | None = None
    ) -> None:
        self._queue, self._compute, self._observe = queue, compute, observe
        self._changed = threading.Condition()
        self.closed = False
        self._thread: threading.Thread | None = None

    @property
    def waiting_tokens(self) -> int:
        """Number of tokens that wait."""
        return self._queue.waiting_tokens

    @property
    def waiting_requests(self) -> int:
        """Number of requests with texts that wait."""
        return self._queue.waiting_requests

    @property
    def tokens_per_second(self) -> float:
        """The measured speed."""
        return self._queue.speed

    def close(self) -> None:
        """Finish the batch that is being computed, and stop the thread. Requests that wait are dropped."""
        with self._changed:
            self.closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        dropped: list[Work] = []
        while (batch := self._queue.take(time.monotonic())) is not None:
            for work, _ in batch.entries:
                self._fail(work, DroppedError("The server stops."), dropped)
        _settle(dropped)

    async def compute(
        self,
        group: Hashable,
        texts: Sequence[Any],
        sizes: Sequence[int],
        gone: Coroutine[Any, Any, object] | None = None,
        check: Callable[[Any], object] | None = None,
    ) -> Work:
        """Compute the texts of a request. If nobody waits for them any more, those that are not computed are dropped.

        Args:
            group: Texts of different requests can share a batch if their group is equal.
            texts: The texts, at least one.
            sizes: The number of tokens of each text.
            gone: Returns when the client has left.
            check: See `Work`. The thread that computes calls it.

        Raises:
            DroppedError: If the client has left, or the scheduler is closed.
            RequestTooLargeError: If it has more tokens than the queue may hold.
            QueueFullError: If it must be sent again later.
            Exception: What the computation of one of its texts, or `check`, raised.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        work = Work(group, texts, sizes, future, check)
        watcher = None if gone is None else loop.create_task(gone)
        try:
            with self._changed:
                self._add(work)
            if watcher is not None:
                watcher.add_done_callback(lambda _: _set(future, DroppedError("The client has left.")))
            await future
        except (DroppedError, asyncio.CancelledError):
            with self._changed:
                self._queue.drop(work)
            raise
        finally:
            if watcher is not None:
                watcher.cancel()
        return work

    def _add(self, work: Work) -> None:
        if self.closed:
            raise DroppedError("The server stops.")
        self._queue.add(work, time.monotonic())
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="compute", daemon=True)
            self._thread.start()
        self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self.closed and not self._queue.waiting_requests:
                    self._changed.wait()
                batch = None if self.closed else self._queue.take(time.monotonic())
            if batch is None:
                return
            try:
                self._step(batch)
            except Exception as error:
                # The thread must go on, whatever happens: without it, every request would wait forever.
                finished: list[Work] = []
                for work in {work for work, _ in batch.entries}:
                    self._fail(work, error, finished)
                _settle(finished)

    def _step(self, batch: Batch) -> None:
        started = time.monotonic()
        results = self._results(batch)
        seconds = time.monotonic() - started
        with self._changed:
            self._queue.measure(batch.tokens, seconds, batch.group)
        if self._observe is not None:
            self._observe(batch, seconds)
        finished: list[Work] = []
        for (work, index), result in zip(batch.entries, results, strict=True):
            if isinstance(result, BaseException):
                self._fail(work, result, finished)
                continue
            if work.error is not None:
                continue
            try:
                if work.check is not None:
                    work.check(result)
            except Exception as error:
                self._fail(work, error, finished)
                continue
            work.results[index] = result
            work.missing -= 1
            if not work.missing:
                finished.append(work)
        _settle(finished)

    def _results(self, batch: Batch) -> Sequence[Any]:
        """Return a result or an exception for each text. If the batch fails, each text is tried alone."""
        try:
            return self._compute(batch.group, batch.texts)
        except Exception as error:
            if len(batch.entries) == 1:
                return [error]
        alone: list[Any] = []
        for text in batch.texts:
            try:
                alone += self._compute(batch.group, [text])
            except Exception as error:
                alone.append(error)
        return alone

    def _fail(self, work: Work, error: BaseException, finished: list[Work]) -> None:
        with self._changed:
            self._queue.drop(work)
        if work.error is None:
            work.error = error
            finished.append(work)


def _settle(finished: list[Work]) -> None:
    """Wake the tasks that wait for requests, with one call for each event loop."""
    loops: dict[asyncio.AbstractEventLoop, list[Work]] = {}
    for work in finished:
        assert work.settled is not None
        loops.setdefault(work.settled.get_loop(), []).append(work)

    def wake(works: list[Work]) -> None:
        for work in works:
            assert work.settled is not None
            _set(work.settled, work.error)

    for loop, works in loops.items():
        # A closed loop has no task that waits. It can be closed at any time by the thread that runs it.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(wake, works)


def _set(future: asyncio.Future[None], error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
