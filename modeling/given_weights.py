"""Fills models with weights that are already in memory, and keeps `post_init` from overwriting these weights."""

from typing import Any, TypeVar, cast

import torch
from torch import nn
from transformers import PreTrainedModel

Model = TypeVar("Model", bound=PreTrainedModel)


def fill(model: Model, tensors: dict[str, torch.Tensor]) -> Model:
    """Fill a model with tensors, without copying them, and return it on their device in evaluation mode.

    Args:
        model: The model, which transformers' `no_init_weights` can create without weights.
        tensors: All weights by name, on one device.

    Raises:
        RuntimeError: If weights are missing, unknown or of another shape.
    """
    model.load_state_dict(tensors, assign=True)
    model.tie_weights()
    keep_weights(model)
    # Buffers are not among the weights. They were created on the CPU.
    placed: Any = model
    return cast(Model, placed.to(next(iter(tensors.values())).device).eval())


def keep_weights(model: nn.Module) -> None:
    """Mark a model as initialised, so that `post_init` of a model that contains it leaves its weights alone.

    `from_pretrained` marks what it loads in the same way.
    """
    for module in model.modules():
        cast(Any, module)._is_hf_initialized = True
