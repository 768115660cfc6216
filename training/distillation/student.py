"""Builds a student with some of the layers of its teacher, and computes its outputs and its loss for `Trainer`.

Shapes: B batch, S sequence, D channels.
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
from .narrowing import narrow, narrowed
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
