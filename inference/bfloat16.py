"""Whether bfloat16 is faster than float32 on this machine."""

from __future__ import annotations

import functools
from pathlib import Path

import torch


def faster_in_bfloat16(device_type: str | None = None) -> bool:
    """Return whether a device has instructions that make bfloat16 faster than float32.

    This does not measure the speed, because the answer must be the same in all processes and after a resume. For CPUs
    other than x86, torch does not report the instructions, so the answer is False.

    Args:
        device_type: The type of the device; by default that of the GPU, or of the CPU if there is no GPU.
    """
    if device_type is None:
        device_type = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type != "cpu":
        return False
    return torch.cpu._is_amx_tile_supported() or (
        torch.cpu._is_avx512_bf16_supported() and not relies_on_amx(_processor())
    )


def relies_on_amx(processor: str) -> bool:
    """Return whether a processor is fast in bfloat16 by AMX alone.

    Intel's processors with AVX512-FP16 (Sapphire Rapids and later) multiply bfloat16 with AVX-512 at half the speed of
    float32. They have AMX instead, which virtual machines can hide. Without it, all-MiniLM-L6-v2 takes 1.4 times as
    long in bfloat16 as in float32 (benchmarks/RESULTS.md).

    Args:
        processor: The contents of /proc/cpuinfo.
    """
    return "GenuineIntel" in processor and "avx512_fp16" in processor


@functools.cache
def _processor() -> str:
    """Return the contents of /proc/cpuinfo, or "" if the system has none."""
    file = Path("/proc/cpuinfo")
    return file.read_text() if file.exists() else ""
