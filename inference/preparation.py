"""Prepares a model for the fastest inference on this machine."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from ..modeling import SequenceEncoderPreTrainedModel
from ..modeling.quantized.eight_bit_linear import EightBitLinear, multiplies_integers
from .bfloat16 import faster_in_bfloat16


def optimize_for_inference(model: SequenceEncoderPreTrainedModel) -> str:
    """Prepare a model for the fastest inference on its device, in place.

    A model in float32 is cast to bfloat16 if the device has fast instructions for it. On a CPU, its weights are
    prepacked; see `prepack_weights`. The mean cosine of its vectors to those before is above 0.999. A static encoder,
    which has nothing to multiply, stays as it is.

    Args:
        model: The model. Train it before: bfloat16 is too coarse for the weights of a model that learns.

    Returns:
        A sentence that says what was chosen, and why.

    Raises:
        ValueError: If the model is not a SequenceEncoder.
    """
    if not isinstance(model, SequenceEncoderPreTrainedModel):
        raise ValueError(f"model must be a SequenceEncoder, got a {type(model).__name__}; convert it with `convert`.")
    model.eval()
    if getattr(model.base_model, "is_static", False):
        return f"{type(model).__name__} reads vectors from a table in {str(model.dtype).removeprefix('torch.')}."
    kind = model.device.type
    where = "this processor" if kind == "cpu" else f"this {kind} device"
    if model.dtype != torch.float32:
        words = f"{str(model.dtype).removeprefix('torch.')}, as it was"
    elif faster_in_bfloat16(kind):
        cast(nn.Module, model).to(torch.bfloat16)
        words = f"bfloat16, for which {where} has fast instructions"
    else:
        words = f"float32, because {where} is not known to be faster in bfloat16"
    sentence = f"{type(model).__name__} computes in {words}"
    if any(isinstance(module, EightBitLinear) for module in model.modules()):
        fast = kind == "cpu" and multiplies_integers()
        sentence += ", and multiplies integers of eight bits" if fast else ", with weights converted from eight bits"
    if kind == "cpu":
        model.prepack_weights()
        sentence += ", with weights in oneDNN's layout"
    return f"{sentence}."
