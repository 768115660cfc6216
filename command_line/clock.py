"""When a command started, from which `--seconds` counts.

The script `sequence-encoder` then imports torch, which takes seconds. `python -m sequence_encoder` has done so before.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_started: ContextVar[float | None] = ContextVar("started", default=None)


@contextmanager
def running_since(started: float) -> Iterator[None]:
    """Run a command that started at this time of `time.perf_counter`."""
    token = _started.set(started)
    try:
        yield
    finally:
        _started.reset(token)


def command_start() -> float:
    """Return when the running command started, by `time.perf_counter`; outside of a command, the current time."""
    started = _started.get()
    return time.perf_counter() if started is None else started
