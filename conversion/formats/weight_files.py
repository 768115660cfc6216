"""Reads the files of weights of checkpoints whose classes transformers does not have, without running any code.

They are files of safetensors, or files of `torch.save` that may only have tensors and plain values.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.utils import cached_file

from ...saving.loading import check_weight_maps
from ..key_mapping import Tensors

# Buffers that old checkpoints contain. Their values follow from the configuration.
_BUFFERS = re.compile(r"(^|\.)(position_ids|token_type_ids|inv_freq|alibi)$")


def read_weights(place: str | os.PathLike[str]) -> Tensors:
    """Read the weights of a folder or a Hub id, by name.

    Raises:
        OSError: If there are no safetensors weights, or their index is damaged.
        ValueError: If weights are damaged or have no floating dtype.
    """
    tensors: Tensors = {}
    for file in weight_files(place):
        tensors |= read_file(file, place)[0]
    tensors = {name: tensor for name, tensor in tensors.items() if not _BUFFERS.search(name)}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{name} has the dtype {tensor.dtype}, which is not supported: it must be floating.")
    return tensors


def read_file(file: Path, place: str | os.PathLike[str]) -> tuple[Tensors, dict[str, str]]:
    """Read a safetensors file.

    Args:
        file: The file.
        place: The folder or Hub id that has it, for errors.

    Returns:
        The tensors by name, and the metadata of the file.

    Raises:
        ValueError: If the file is damaged.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(
            f"The weights of {place} are damaged or incomplete ({error}); copy or download them again."
        ) from error


def weight_files(place: str | os.PathLike[str]) -> list[Path]:
    """Return the safetensors files of a folder or a Hub id.

    Raises:
        OSError: If there are none, or an index refers to other files.
    """
    check_weight_maps(Path(place))
    whole = find_file(place, "model.safetensors")
    if whole is not None:
        return [whole]
    index = find_file(place, "model.safetensors.index.json")
    if index is None:
        raise OSError(
            f"{place} has no model.safetensors. Weights in other formats are not read, because unpickling can execute "
            "code; convert them to safetensors first."
        )
    check_weight_maps(index.parent)
    names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    files = [(name, find_file(place, name)) for name in names]
    if missing := [name for name, file in files if file is None]:
        raise OSError(f"{place} has no {', '.join(missing)}, which its index names; copy or download the files again.")
    return [file for _, file in files if file is not None]


def find_file(place: str | os.PathLike[str], name: str) -> Path | None:
    """Return the path of a file in a folder or a repository, or None if it does not exist."""
    found = cached_file(place, name, _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found)


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
