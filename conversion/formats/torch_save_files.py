"""Reads weights from files of `torch.save` without running code that they may contain."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any


def read_torch_save(path: Path, what: str) -> Any:
    """Return the content of a file of `torch.save`, which may only have tensors and plain values.

    Args:
        path: The file.
        what: What it must contain, for errors.

    Raises:
        ValueError: If it is damaged, or has anything else.
    """
    # `inspect` needs no torch.
    import torch

    try:
        with zipfile.ZipFile(path) as archive:
            compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
        # torch never compresses. What others compress can be larger than the memory.
        if compressed:
            raise ValueError("it is compressed")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # The parsers of damaged or hostile files raise all kinds of errors.
        reason = f"{error}".partition("\n")[0]
        raise ValueError(f"{path} cannot be read as {what} ({reason}).") from error


def check_stored(name: str, tensor: Any, path: Path) -> None:
    """Check that a value is a floating tensor whose numbers are all in its file.

    Raises:
        ValueError: If it is not.
    """
    import torch

    # A tensor that repeats a part of a small file can be larger than the memory.
    dense = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and tensor.is_floating_point()
    if not dense or tensor.nbytes > path.stat().st_size:
        raise ValueError(f"{name} in {path} must be a floating tensor.")
