"""The processes of a run that `accelerate launch` or `torchrun` has started. They share only the output folder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

_SECONDS = 0.2


def rank() -> int:
    """Return the number of this process among all."""
    return int(os.environ.get("RANK", 0))


def process_count() -> int:
    """Return the number of processes."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_mine(shard: int) -> bool:
    """Return whether this process computes a shard."""
    return shard % process_count() == rank()


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what the first process does. If that process fails, the launcher ends this one."""
    while not condition():
        time.sleep(_SECONDS)
