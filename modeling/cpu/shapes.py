"""Rounds the shapes of matrix products on a CPU, so that oneDNN compiles few kernels.

oneDNN compiles a kernel for every new shape. It takes about half a megabyte and, in bfloat16, longer than most products
of an encoder. With texts of random lengths, nearly every batch has new shapes.
"""

import torch

# With fewer rows, torch's own float32 product is as fast, and compiles nothing.
_MIN_ROWS = 256
# With fewer rows in bfloat16, what fusing saves is less than the time to find out that it is possible, and kernels for
# all numbers of rows are soon compiled.
_MIN_ROWS_IN_HALF = 64
# Padding a group with more attention weights than this takes longer than compiling its kernels, unless its texts are
# short: the softmax of a short row that does not fill the registers takes up to twice as long as that of a padded one.
_MAX_PADDED_WEIGHTS, _SHORT = 1 << 20, 256
_LENGTH_STEP = 16
_HAS_BFLOAT16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
_HAS_FLOAT32 = torch.backends.mkldnn.is_available()


def has_onednn(dtype: torch.dtype) -> bool:
    """Return whether oneDNN can compute products of a dtype."""
    known = _HAS_FLOAT32 if dtype == torch.float32 else _HAS_BFLOAT16 and dtype == torch.bfloat16
    return bool(known and torch.backends.mkldnn.enabled)


def needs_onednn(dtype: torch.dtype) -> bool:
    """Return whether torch's own products also use oneDNN."""
    return dtype == torch.bfloat16 and has_onednn(dtype)


def has_few_rows(rows: int, dtype: torch.dtype) -> bool:
    """Return whether torch's own product of that many rows is as fast, given that it needs no checks."""
    return rows < (_MIN_ROWS if dtype == torch.float32 else _MIN_ROWS_IN_HALF)


def suits_onednn(rows: int, dtype: torch.dtype) -> bool:
    """Return whether oneDNN should compute a product of that many rows."""
    return needs_onednn(dtype) or (has_onednn(dtype) and not has_few_rows(rows, dtype) and rows == _round_up(rows))


def compute_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Return the dtype of products of tensors of a dtype; under autocast, that of autocast, except for float64."""
    casts = device.type != "meta" and torch.is_autocast_enabled(device.type) and dtype != torch.float64
    return torch.get_autocast_dtype(device.type) if casts else dtype


def dtype_of_products(*tensors: torch.Tensor | None) -> torch.dtype | None:
    """Return the dtype in which torch multiplies tensors, or None if it is not the same for all of them."""
    dtypes = {compute_dtype(tensor.dtype, tensor.device) for tensor in tensors if tensor is not None}
    return dtypes.pop() if len(dtypes) == 1 else None


def round_up_tokens(tokens: int, dtype: torch.dtype, device: torch.device) -> int:
    """Return how many tokens to compute if `tokens` are needed: up to a sixteenth more on a CPU.

    Fewer than 256 tokens (64 in bfloat16) are not rounded.
    """
    dtype = compute_dtype(dtype, device)
    rounds = device.type == "cpu" and has_onednn(dtype) and not has_few_rows(tokens, dtype)
    return _round_up(tokens) if rounds else tokens


def round_up_length(length: int, rows: int, dtype: torch.dtype, device: torch.device) -> int:
    """Round up the length of the texts in a group of attention, which has `rows` matrices of attention weights."""
    worthwhile = length <= _SHORT or rows * length**2 <= _MAX_PADDED_WEIGHTS
    rounds = device.type == "cpu" and needs_onednn(dtype) and worthwhile
    return -(-length // _LENGTH_STEP) * _LENGTH_STEP if rounds else length


def parts_of_batch(count: int, dtype: torch.dtype) -> list[int]:
    """Split a batch of matrices into parts of few different sizes, powers of two, if each size compiles a kernel."""
    if not needs_onednn(dtype):
        return [count]
    return [1 << bit for bit in reversed(range(count.bit_length())) if count >> bit & 1]


def _round_up(rows: int) -> int:
    """Round up to one of sixteen numbers per doubling."""
    step = max(1, 1 << ((rows - 1).bit_length() - 5))
    return -(-rows // step) * step
