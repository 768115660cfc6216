"""Rounds the shapes of matrix products on a CPU, so that oneDNN compiles few kernels.

oneDNN compiles a kernel for every shape, of about half a megabyte, and keeps up to a thousand of them. With texts of
random lengths, nearly every batch has new shapes. In bfloat16 and float16, compiling takes longer than most products of
an encoder. Float32 products use oneDNN only where it is faster than torch's own code, which compiles nothing.
"""

import torch

# Float32 products with fewer rows use torch's own code, which is equally fast for them.
_MIN_FLOAT32_ROWS = 256
_LENGTH_STEP = 32


def compute_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Return the dtype of products of tensors of a dtype; under autocast, that of autocast."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else dtype


def round_up_tokens(tokens: int, dtype: torch.dtype, device: torch.device) -> int:
    """Return how many tokens to compute if `tokens` are needed; on accelerators, as many."""
    return _round_up_rows(tokens, compute_dtype(dtype, device)) if device.type == "cpu" else tokens


def has_kernel(rows: int, dtype: torch.dtype) -> bool:
    """Return whether oneDNN should compute a product of that many rows."""
    return _compiles_all(dtype) or (rows >= _MIN_FLOAT32_ROWS and rows == _round_up_rows(rows, dtype))


def _round_up_rows(rows: int, dtype: torch.dtype) -> int:
    """Round up to one of sixteen numbers per doubling, at least 8 apart."""
    if not _compiles_all(dtype) and rows < _MIN_FLOAT32_ROWS:
        return rows
    step = max(8, 1 << max(0, (rows - 1).bit_length() - 5))
    return -(-rows // step) * step


def round_up_group(count: int, length: int, dtype: torch.dtype) -> tuple[int, int]:
    """Round up the number of sequences in a group, two per doubling, and their length."""
    step = 1 << max(0, (count - 1).bit_length() - 2) if _compiles_all(dtype) else 1
    return -(-count // step) * step, round_up_length(length, dtype)


def round_up_length(length: int, dtype: torch.dtype) -> int:
    """Round up the length of the sequences in a group to a multiple of 32, if kernels are compiled for all shapes."""
    return -(-length // _LENGTH_STEP) * _LENGTH_STEP if _compiles_all(dtype) else length


def _compiles_all(dtype: torch.dtype) -> bool:
    """Return whether torch's own code also uses oneDNN."""
    return dtype.itemsize < 4
