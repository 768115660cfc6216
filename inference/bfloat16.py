"""Whether bfloat16 is faster than float32 on this machine."""

from __future__ import annotations

import torch


def faster_in_bfloat16(device_type: str | None = None) -> bool:
    """Return whether a device has bfloat16 instructions. CPUs without them emulate it, slower than float32.

    This does not measure the speed, because the answer must be the same in all processes and after a resume. For CPUs
    other than x86, torch does not report the instructions, so the answer is False.

    Args:
        device_type: The type of the device; by default that of the GPU, or of the CPU if there is no GPU.
    """
    if device_type is None:
        device_type = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device_type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
