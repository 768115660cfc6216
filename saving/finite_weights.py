"""Finds weights that are NaN or infinite, which training that diverged or a damaged file leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

_FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def not_finite(model: nn.Module, state_dict: Mapping[str, torch.Tensor] | None = None) -> list[str]:
    """The names of the parameters that are not finite, in the model or, if there is one, in the `state_dict`.

    Looks at plain floating tensors in memory. Quantised, sharded and offloaded weights are left out: to look at them
    would need other processes, or reading them from the disk.
    """
    named = dict(model.named_parameters())
    if state_dict is not None:
        named = {name: tensor for name, tensor in state_dict.items() if name in named}  # type: ignore[misc] # no Parameter
    checked = {
        name: tensor.detach()
        for name, tensor in named.items()
        if type(tensor) in (torch.Tensor, nn.Parameter)
        and tensor.dtype in _FLOATING
        and not tensor.is_meta
        and tensor.numel()
    }
    # NaN is both the least and the largest of its tensor. One pass, and one wait for an accelerator.
    extremes = [torch.stack(tensor.aminmax()).double().cpu() for tensor in checked.values()]
    if not extremes:
        return []
    finite = torch.stack(extremes).isfinite().all(dim=1).tolist()
    return [name for name, is_finite in zip(checked, finite, strict=True) if not is_finite]


def not_finite_in(folder: Path) -> list[str]:
    """The names of the weights that are not finite in the files of a folder and those below; holds one at a time."""
    names = []
    for file in sorted(folder.rglob("*.safetensors")):
        with suppress(SafetensorError), safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118 # no dictionary
                tensor = weights.get_tensor(name)
                checked = tensor.dtype in _FLOATING and tensor.numel()
                if checked and not torch.stack(tensor.aminmax()).isfinite().all():
                    names.append(name)
    return names


def in_words(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
