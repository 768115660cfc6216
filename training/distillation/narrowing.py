"""Starts a narrower student from its teacher: fewer channels of the hidden states, heads and inner channels.

Shapes: N texts, D channels of the teacher, d of the student.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ...command_line import UsageError


def check_hidden_size(config: Any, hidden_size: int) -> None:
    """Check that a student of a teacher with this configuration can have a hidden size.

    Raises:
        UsageError: If it is not smaller, or not a multiple of the size of a head.
    """
    before, head = config.hidden_size, config.head_dim
    shared = config.num_attention_heads // config.key_value_heads
    if config.conv_kernel_size:
        raise UsageError("--hidden_size does not support a teacher with a convolution; leave it out.")
    if hidden_size >= before or hidden_size % (head * shared):
        raise UsageError(
            f"--hidden_size must be a multiple of {head * shared} (whole heads) below {before}, the hidden size of the "
            f"teacher, got {hidden_size}."
        )


def narrow(config: Any, hidden_size: int) -> None:
    """Give a configuration a smaller hidden size, with heads of the same size and inner channels in proportion."""
    share, head = hidden_size / config.hidden_size, config.head_dim
    shared = config.num_attention_heads // config.key_value_heads
    config.num_attention_heads = hidden_size // head
    if config.num_key_value_heads is not None:
        config.num_key_value_heads = config.num_attention_heads // shared
    config.intermediate_size, config.hidden_size = round(config.intermediate_size * share), hidden_size


def narrowed(
    weights: Mapping[str, torch.Tensor], shapes: Mapping[str, torch.Size], channels: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return the weights of a teacher in the shapes of a narrower student.

    Some `channels` (d,) of the hidden states are kept, the first heads and the first inner channels. Selected channels
    keep the norms as they are, and students learn faster from them than from principal components.
    """
    return {name: _narrowed(name, weight, shapes[name], channels) for name, weight in weights.items()}


def _narrowed(name: str, weight: torch.Tensor, shape: torch.Size, channels: torch.Tensor) -> torch.Tensor:
    for axis, size in enumerate(shape):
        if size == weight.shape[axis]:
            continue
        of_heads = (axis == 1 and "o_proj" in name) or (axis == 0 and "distances" in name)
        if size == len(channels) and weight.shape[axis] > len(channels) and not of_heads:
            weight = weight.index_select(axis, channels)
        else:
            # The gates and what they multiply are the two halves of one projection.
            parts = weight.chunk(2, axis) if "gate_up" in name else (weight,)
            weight = torch.cat([part.narrow(axis, 0, size // len(parts)) for part in parts], axis)
    return weight


@torch.no_grad()
def varied_channels(model: Any, inputs: Mapping[str, torch.Tensor], size: int) -> torch.Tensor:
    """Return the channels (d,) of the hidden states of texts that vary most, in all layers."""
    states = model.base_model(**inputs, output_hidden_states=True).hidden_states
    real = inputs["attention_mask"].bool()
    return torch.cat([each[real] for each in states]).var(0).topk(size).indices.sort().values


def principal_directions(vectors: torch.Tensor, size: int) -> torch.Tensor:
    """Return the directions (D, d) that keep most of the lengths of vectors (N, D), the most important one first."""
    return torch.linalg.eigh(vectors.T @ vectors).eigenvectors.flip(1)[:, :size].contiguous()
