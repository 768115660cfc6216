"""The machine that trains: its name, its speed, its peak memory, and how its C library keeps freed memory."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# The parameters of mallopt(3). Once one is set, glibc no longer adjusts the thresholds itself: they end at the largest
# values to which it would have raised them, since lower ones would return memory after each forward pass.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_DEFAULTS = {_TRIM_THRESHOLD: 64 * 2**20, _MMAP_THRESHOLD: 32 * 2**20, _MMAP_MAX: 65536}
_KEPT = {_TRIM_THRESHOLD: 2**31 - 1, _MMAP_MAX: 0}


def has_accelerator() -> bool:
    """Return whether there is a GPU that `Trainer` can use."""
    return torch.cuda.is_available() or torch.backends.mps.is_available()


def device_name() -> str:
    """Return the name of the accelerator, or else the number of CPU threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    if torch.backends.mps.is_available():
        return "Apple GPU"
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' * (threads > 1)}"


@functools.cache
def product_speed(dtype: torch.dtype) -> float:
    """Measure the FLOP/s of plain matrix products on one device, as an upper bound. Return the best of several runs."""
    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    size = 1536 if device == "cpu" else 8192
    matrix = torch.ones(size, size, dtype=dtype, device=device)
    seconds: list[float] = []
    while len(seconds) < 2 or sum(seconds) < 0.05:
        started = time.perf_counter()
        # Reading a number synchronises with the device.
        float((matrix @ matrix)[0, 0])
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)


def peak_memory() -> int:
    """Return the peak memory in bytes: of the accelerator if there is one, or else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep the memory that is freed in this block for later allocations, and return it at the end.

    glibc maps each block of more than 32 MiB anew, such as the gradient of an embedding matrix. Other C libraries stay
    as they are, and so does glibc if the environment configures it.
    """
    is_configured = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if is_configured or platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    _set(libc, _KEPT)
    try:
        yield
    finally:
        _set(libc, _DEFAULTS)
        libc.malloc_trim(0)


def _set(libc: ctypes.CDLL, values: dict[int, int]) -> None:
    for parameter, value in values.items():
        libc.mallopt(parameter, value)
