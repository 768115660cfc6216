"""Builds a student with some of the layers and channels of its teacher, and computes its loss for `Trainer`.

A narrower student has fewer channels of the hidden states, heads and inner channels.

Shapes: B batch, S sequence, D channels of the teacher, d of the student.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from ...command_line import UsageError
from ...modeling import SequenceEncoderModel, SequenceEncoderPreTrainedModel
from .objectives import Objective

# A student imitates what its teacher computes without dropout.
_DROPOUTS = (
    *("hidden_dropout", "attention_dropout", "mlp_dropout"),
    *("embedding_dropout", "classifier_dropout", "pooler_dropout"),
)


@torch.no_grad()
def choose_layers(teacher: SequenceEncoderPreTrainedModel, kept: int, inputs: Mapping[str, torch.Tensor]) -> list[int]:
    """Return the indices of the layers to keep, in their order.

    Layers are left out one by one: always the one without which the encoder changes the vectors of tokens least. A
    student of these layers is nearest to its teacher before it is fitted or learns. The first layer stays: `fit_layers`
    fits what a layer did that is left out into the kept layer before it, and nothing precedes the first. A single layer
    may be any, unless the first one is unlike the others.

    Args:
        teacher: The model.
        kept: The number of layers to keep.
        inputs: (B, S) some texts.
    """
    encoder = cast(SequenceEncoderModel, teacher.base_model)
    chosen = list(range(encoder.config.num_hidden_layers))
    if len(chosen) == kept:
        return chosen
    wanted = token_states(encoder, inputs)

    def similarity(layers: list[int]) -> float:
        states = token_states(make_student(encoder, layers), inputs)
        return float(F.cosine_similarity(states, wanted, dim=-1).mean())

    first, second = ([type(module) for module in layer.modules()] for layer in encoder._layers_in_order()[:2])
    fixed = [0] if kept > 1 or first != second else []
    while len(chosen) > kept:
        candidates = [layer for layer in chosen if layer not in fixed]
        chosen = max(([each for each in chosen if each != left_out] for left_out in candidates), key=similarity)
    return chosen


def spread_layers(total: int, kept: int) -> list[int]:
    """Return the indices of `kept` of `total` layers, spread evenly from the first to the last one."""
    return [round(index * (total - 1) / max(1, kept - 1)) for index in range(kept)]


@torch.no_grad()
def token_states(model: SequenceEncoderPreTrainedModel, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the last hidden states (T, D) of the tokens of some texts (B, S)."""
    states: torch.Tensor = cast(Any, model.base_model).eval()(**inputs).last_hidden_state
    return states[inputs["attention_mask"].bool()]


def check_layers(total: int, kept: int | None, narrower: bool) -> int:
    """Return the number of layers of a student, by default half of those of its teacher.

    Raises:
        UsageError: If the student would not be smaller.
    """
    least = 1 if narrower else 2
    if total < least:
        advice = "Pass --static for a student without layers." if total else "Use --truncate_dim for shorter vectors."
        raise UsageError(
            f"the teacher must have at least {least} layers, of which the student keeps some; it has {total}. {advice}"
        )
    if kept is not None and (kept > total or (kept == total and not narrower)):
        allowed = "at most" if narrower else "less than"
        raise UsageError(f"--layers must be {allowed} {total}, the number of layers of the teacher, got {kept}.")
    return kept or max(1, total // 2)


@torch.no_grad()
def make_student(
    teacher: SequenceEncoderPreTrainedModel, chosen: Sequence[int], channels: torch.Tensor | None = None
) -> SequenceEncoderPreTrainedModel:
    """Return a copy of a model in float32 with some of its layers, which has no dropout; see `with_dropout_of`.

    Args:
        teacher: The model.
        chosen: The indices of the layers.
        channels: (d,) the channels of the hidden states that a narrower student keeps.
    """
    before, config = cast(Any, teacher.config), copy.deepcopy(cast(Any, teacher.config))
    config.num_hidden_layers, config.logit_calibration = len(chosen), None
    config.layer_types = [before.layer_types[index] for index in chosen]
    if config.num_hidden_groups is not None:
        config.num_hidden_groups = min(len(chosen), config.num_hidden_groups)
    if channels is not None:
        narrow(config, len(channels))
    for name in _DROPOUTS:
        setattr(config, name, 0.0)
    student = type(teacher)(config).float().to(teacher.device)
    original, encoder = cast(SequenceEncoderModel, teacher.base_model), cast(SequenceEncoderModel, student.base_model)
    inside = "layers." if original is teacher else f"{teacher.base_model_prefix}.layers."
    copy_weights(teacher, student, channels, inside)
    layers = original._layers_in_order()
    for index, layer in zip(chosen, encoder._layers_in_order(), strict=True):
        copy_weights(layers[index], layer, channels)
    encoder.embedding_recipe = original.embedding_recipe
    return student


def copy_weights(source: Any, target: Any, channels: torch.Tensor | None, left_out: str = "\n") -> None:
    """Copy the weights of a module to one of the same kind, except those whose names start with `left_out`."""
    weights = {name: weight for name, weight in source.state_dict().items() if not name.startswith(left_out)}
    if channels is not None:
        weights = narrowed(weights, {name: weight.shape for name, weight in target.state_dict().items()}, channels)
    target.load_state_dict({**target.state_dict(), **weights})


def with_dropout_of(student: SequenceEncoderPreTrainedModel, teacher_config: Any) -> SequenceEncoderPreTrainedModel:
    """Give the configuration of a trained student the dropout of its teacher, for later fine-tuning."""
    for name in _DROPOUTS:
        setattr(student.config, name, getattr(teacher_config, name))
    return student


class Student(nn.Module):
    """A student that returns its loss, for a `Trainer`.

    Args:
        model: The student.
        objective: What it learns.
    """

    def __init__(self, model: SequenceEncoderPreTrainedModel, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = cast(nn.Module, model), objective
        # The summary of a `Trainer` reads it.
        self.config = model.config

    def forward(
        self, target: torch.Tensor, groups: torch.Tensor | None = None, **inputs: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Return the loss and the outputs for texts and the outputs of the teacher. See `Objective`."""
        outputs = self.objective.outputs(self.model, inputs)
        return {"loss": self.objective.loss(outputs, target, groups), "outputs": outputs}


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
