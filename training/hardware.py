"""What the machine at hand is and can do: its name, whether bfloat16 pays, and how much memory was used."""

from __future__ import annotations

import functools
import sys
import time

import torch


def has_accelerator() -> bool:
    """Whether `Trainer` finds something faster than the CPU."""
    return torch.cuda.is_available() or torch.backends.mps.is_available()


def device_name() -> str:
    """The accelerator, or else the number of CPU threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    if torch.backends.mps.is_available():
        return "Apple GPU"
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' * (threads > 1)}"


def faster_in_bfloat16() -> bool:
    """Whether this machine has instructions for bfloat16; CPUs without them emulate it, slower than float32.

    Not found by trying: it must be the same in all processes of a run, and when that goes on after an interruption.
    Of CPUs other than x86, torch does not tell; there it is False.
    """
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.backends.mps.is_available():
        return False
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


@functools.cache
def product_speed(dtype: torch.dtype) -> float:
    """Operations a second of plain matrix products on one device, the best of several: what nothing else can exceed."""
    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    size = 1536 if device == "cpu" else 8192
    matrix = torch.ones(size, size, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        # Reading a number waits for the device.
        float((matrix @ matrix)[0, 0])
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def peak_memory() -> int:
    """The most bytes in use so far: on the accelerator if there is one, else by this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
