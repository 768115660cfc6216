"""Gives a model weights that are already in memory, and keeps `post_init` of a larger model from initialising them."""

from typing import Any, TypeVar, cast

import torch
from torch import nn
from transformers import PreTrainedModel

Model = TypeVar("Model", bound=PreTrainedModel)


def fill(model: Model, tensors: dict[str, torch.Tensor]) -> Model:
    """Give a model weights that are not copied, move it to the device of the first, and return it in evaluation mode.

    Args:
        model: The model, which transformers' `no_init_weights` can create without weights.
        tensors: All weights by name.

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
    """Keep the weights of a model that becomes a part of another one, whose `post_init` initialises its parts.

    Transformers marks the parts that it has loaded in the same way.
    """
    for module in model.modules():
        cast(Any, module)._is_hf_initialized = True
