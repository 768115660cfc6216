"""Chooses the device and the dtype for inference."""

from __future__ import annotations

import os
from typing import cast

import torch
from torch import nn

from ..command_line import UsageError
from ..modeling import SequenceEncoderPreTrainedModel
from .preparation import optimize_for_inference


def best_device() -> torch.device:
    """Return the accelerator of this process, or the CPU if the machine has no accelerator."""
    if torch.accelerator.is_available() and (found := torch.accelerator.current_accelerator()) is not None:
        process = int(os.environ.get("LOCAL_RANK", os.environ.get("RANK", 0)))
        return torch.device(found.type, process % torch.accelerator.device_count())
    return torch.device("cpu")


def choose_device(asked: str | None) -> torch.device:
    """Return the device to compute on.

    Args:
        asked: The device that the user asked for; by default, that of `best_device`.

    Raises:
        UsageError: If there is no such device.
    """
    if asked is None:
        return best_device()
    try:
        device = torch.device(asked)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        # torch appends a trace of C++ to some errors.
        raise UsageError(f"--device {asked}: {str(error).partition(chr(10))[0]}") from error
    return device


def prepare(model: SequenceEncoderPreTrainedModel, device: torch.device, dtype: str) -> str:
    """Move a model to a device, in a dtype, for inference.

    Args:
        model: The model.
        device: The device.
        dtype: "float32" or "bfloat16"; anything else is what `optimize_for_inference` chooses.

    Returns:
        A sentence that says how it computes.
    """
    module = cast(nn.Module, model)
    module.to(device)
    if dtype in ("float32", "bfloat16"):
        module.to(getattr(torch, dtype))
        model.eval()
        if device.type == "cpu":
            model.prepack_weights()
        return f"{type(model).__name__} computes in {dtype}."
    return optimize_for_inference(model)
