"""Runs the steps before and after the computation in threads."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

Item = TypeVar("Item")
# How long a thread waits until it looks whether it should stop.
_SECONDS = 0.1


@contextmanager
def read_ahead(items: Iterator[Item]) -> Iterator[Iterator[Item]]:
    """Run an iterator in a thread, which is at most two items ahead.

    Args:
        items: The iterator. Its errors are raised where its items are read.
    """
    ready: queue.Queue[tuple[bool, Any]] = queue.Queue(maxsize=1)
    stopped = threading.Event()

    def put(ends: bool, item: Any) -> None:
        while not stopped.is_set():
            try:
                ready.put((ends, item), timeout=_SECONDS)
                return
            except queue.Full:
                continue

    def read() -> None:
        try:
            for item in items:
                put(False, item)
                if stopped.is_set():
                    return
            put(True, None)
        except BaseException as error:
            put(True, error)

    def received() -> Iterator[Item]:
        while True:
            ends, item = ready.get()
            if ends and item is not None:
                raise item
            if ends:
                return
            yield item

    thread = threading.Thread(target=read, name="read_ahead", daemon=True)
    thread.start()
    try:
        yield received()
    finally:
        stopped.set()
        thread.join()


class Background:
    """Runs functions in another thread, one after the other, of which at most one waits or runs.

    Use it as a context, whose end waits for the last function.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="background")
        self._last: Future[Any] | None = None

    def run(self, function: Callable[..., object], *arguments: Any) -> None:
        """Wait for the function before, raise its error if it had one, and start the next."""
        self.wait()
        self._last = self._pool.submit(function, *arguments)

    def wait(self) -> None:
        """Wait for the last function, and raise its error if it had one."""
        if self._last is not None:
            last, self._last = self._last, None
            last.result()

    def __enter__(self) -> Background:
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        try:
            if error is None:
                self.wait()
        finally:
            self._pool.shutdown()
