"""Finds weights that are NaN or infinite, because training diverged or a file is damaged."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:
    import torch
    from torch import nn


def _can_be_checked(tensor: torch.Tensor) -> bool:
    import torch

    floating = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return tensor.dtype in floating and not tensor.is_meta and tensor.numel() > 0


def find_non_finite(model: nn.Module, state_dict: Mapping[str, torch.Tensor] | None = None) -> list[str]:
    """Return the names of parameters that are NaN or infinite.

    Only plain floating tensors in memory are checked. Checking sharded or offloaded weights would need other processes
    or the disk, and quantised weights are not floating.

    Args:
        model: The model.
        state_dict: Values to check instead of those in the model.
    """
    import torch
    from torch import nn

    named = dict(model.named_parameters())
    if state_dict is not None:
        named = {name: tensor for name, tensor in state_dict.items() if name in named}  # type: ignore[misc] # no Parameter
    checked = {
        name: tensor.detach()
        for name, tensor in named.items()
        if type(tensor) in (torch.Tensor, nn.Parameter) and _can_be_checked(tensor)
    }
    # `aminmax` returns NaN for a tensor with NaN, so a single pass over it suffices.
    extremes = [torch.stack(tensor.aminmax()).double().cpu() for tensor in checked.values()]
    if not extremes:
        return []
    finite = torch.stack(extremes).isfinite().all(dim=1).tolist()
    return [name for name, is_finite in zip(checked, finite, strict=True) if not is_finite]


def find_non_finite_in(folder: Path) -> list[str]:
    """Return the names of NaN or infinite weights in the safetensors files of a folder and its subfolders.

    Only one tensor is in memory at a time.
    """
    import torch

    names = []
    for file in sorted(folder.rglob("*.safetensors")):
        with suppress(SafetensorError), safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118 # not a dictionary
                tensor = weights.get_tensor(name)
                if _can_be_checked(tensor) and not torch.stack(tensor.aminmax()).isfinite().all():
                    names.append(name)
    return names


def summarize_names(names: list[str]) -> str:
    """Return the first three names and the number of the others, for a message."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
