"""Defaults of OpenMP for processors that are shared, which a command sets before it imports torch."""

from __future__ import annotations

import math
import os
from collections.abc import MutableMapping
from pathlib import Path

# GNU's OpenMP spins for 300,000 turns, up to 15 ms, before a thread that waits for another one sleeps. If several
# processes compute, the spinning keeps the processor from the threads that are waited for, at every matrix product.
# Beside two trainings on two cores, a server answers 40 to 56 requests a second with 20,000 turns in all of them, and 9
# to 18 without; alone, it answers 7 to 9 % fewer.
_TURNS = "20000"
_CGROUPS = Path("/sys/fs/cgroup")


def set_openmp_defaults(environment: MutableMapping[str, str] = os.environ, cgroups: Path = _CGROUPS) -> None:
    """Set the environment variables of OpenMP that the user has not set.

    Threads spin for a shorter time while they wait, and in a container with a limit on its CPU time, such as `docker
    run --cpus 2`, there are no more threads than the limit has CPUs: torch would start one for each CPU of the machine.

    Args:
        environment: The environment variables.
        cgroups: The folder where Linux shows the limits of this process.
    """
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", _TURNS)
    limit = cpu_limit(cgroups)
    if limit is not None and limit < _available_cpus():
        environment.setdefault("OMP_NUM_THREADS", str(max(1, math.ceil(limit))))


def cpu_limit(cgroups: Path = _CGROUPS) -> float | None:
    """Return how many CPUs' time this process may use, or None without a limit.

    Args:
        cgroups: The folder where Linux shows the limits of this process, in either version of control groups.
    """
    try:
        both = cgroups / "cpu.max"
        if both.exists():
            quota, period = both.read_text().split()
        else:
            quota, period = ((cgroups / f"cpu/cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        limit = int(quota) / int(period)
    # There are no such files outside of Linux, and "max" means that there is no limit.
    except (OSError, ValueError):
        return None
    return limit if limit > 0 else None


def _available_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
