"""Warns if other processes keep the threads of OpenMP waiting for each other.

GNU's OpenMP lets a thread spin while it waits for another one. If another process has that one's core, everything can
take ten times as long. The number of turns can only be set before torch is imported.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers.utils import logging

logger = logging.get_logger(__name__)

# The seconds of computation after which the threads are judged, and the least share of their time that they must get.
_SECONDS, _LEAST_SHARE = 3.0, 0.75
_VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


class _Watch:
    """Accumulates wall time and CPU time until there is enough of them to judge."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def starved(self, wall: float, cpu: float, threads: int) -> bool:
        """Add a computation, and return whether the threads got less of the processor than they could have used.

        Args:
            wall: The seconds that it took.
            cpu: The seconds of the processor that all threads took.
            threads: The number of threads.
        """
        self.wall, self.cpu = self.wall + wall, self.cpu + cpu
        if self.wall < _SECONDS:
            return False
        share = self.cpu / (self.wall * threads)
        self.wall = self.cpu = 0.0
        return share < _LEAST_SHARE


_watch = _Watch()


@contextmanager
def warned_of_busy_neighbours(device: torch.device) -> Iterator[None]:
    """Measure a computation, and warn once if it is on the CPU and other processes keep its threads waiting."""
    threads = torch.get_num_threads()
    if (
        threads == 1
        or device.type != "cpu"
        or sys.platform != "linux"
        or any(name in os.environ for name in _VARIABLES)
    ):
        yield
        return
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    if _watch.starved(time.perf_counter() - wall, time.process_time() - cpu, threads):
        logger.warning_once(
            f"Other processes, or a limit on the CPUs of this container, keep the {threads} threads of torch waiting "
            "for each other, which can make everything ten times as slow. Set GOMP_SPINCOUNT=20000 in the environment "
            "before Python starts, or call torch.set_num_threads with fewer threads."
        )
