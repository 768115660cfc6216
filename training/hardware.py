"""Information about the hardware: its name, its speed and the peak memory."""

from __future__ import annotations

import functools
import sys
import time

import torch


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
