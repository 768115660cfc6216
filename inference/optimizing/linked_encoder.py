"""A SequenceEncoder that computes with the weights of an encoder of another family, without a copy of most of them.

Where both families have the same tensor, the two models share one `Parameter`. A tensor that joins several of theirs,
such as the projection of queries, keys and values, is made from them: once for inference, and again for each pass of a
training, so that gradients reach the weights of the other model.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from ...conversion.converting import check_constants, our_config, table_heads
from ...conversion.key_mapping import SAME, Rule
from ...conversion.source_models import find_family
from ...modeling import SequenceEncoderModel
from ...modeling.cpu.prepacked import number_of_steps
from ...modeling.layers import EncoderLayer
from .structure import check_class, described_structure

_Place = tuple[nn.Module, str]


class LinkedEncoder:
    """A SequenceEncoder that is linked to an encoder of another family.

    Args:
        source: The encoder, without a head.
        prepacked: Whether inference on a CPU uses copies of the weights in oneDNN's layout.
        dtype: The dtype of inference, which needs a copy of all weights; None for that of the source.

    Attributes:
        encoder: The SequenceEncoder with the weights of the source.
        structure: The modules of the source.

    Raises:
        ValueError: If there is no SequenceEncoder with the same outputs.
    """

    def __init__(self, source: PreTrainedModel, prepacked: bool, dtype: torch.dtype | None) -> None:
        if source.config._attn_implementation not in ("eager", "sdpa"):
            used = source.config._attn_implementation
            raise ValueError(f"its attention is {used}, which does not compute padding either")
        if not all(parameter.is_floating_point() for parameter in source.parameters()):
            raise ValueError("its weights are quantized")
        check_class(source)
        config = our_config(source)
        self.structure = described_structure(source)
        check_constants(source)
        self.heads, self.prepacked, self.dtype = table_heads(config), prepacked, dtype
        with torch.device("meta"):
            empty = SequenceEncoderModel(config, add_pooling_layer=getattr(source, "pooler", None) is not None)
        family, head = find_family(type(source).__name__)
        rules = {rule.ours: rule for rule in family.rules(head, config, source.base_model_prefix)}
        self._shared: list[tuple[str, nn.Parameter]] = []
        self._joined: list[tuple[str, list[_Place], Rule]] = []
        for name, needed in empty.state_dict().items():
            rule = rules[name]
            places = [_parameter_place(source, theirs) for theirs in rule.theirs]
            if rule.layout is SAME:
                self._shared.append((name, _value(places[0])))
                shape = _value(places[0]).shape
            else:
                self._joined.append((name, places, rule))
                shape = self._join(places, rule).shape
            if shape != needed.shape:
                raise ValueError(f"{name} would have the shape {tuple(shape)} instead of {tuple(needed.shape)}.")
        # Training has its own encoder, so that inference in other threads leaves the history of its weights alone.
        self._learning = self._linked(copy.deepcopy(empty))
        self.encoder = self._linked(empty)
        if prepacked:
            self.encoder.prepack_weights()
        self._state: list[Any] | None = None
        self._copy: SequenceEncoderModel | None = None

    def _linked(self, empty: SequenceEncoderModel) -> SequenceEncoderModel:
        for name, parameter in self._shared:
            owner, leaf = _place(empty, name)
            owner._parameters[leaf] = parameter
        for name, _, _ in self._joined:
            owner, leaf = _place(empty, name)
            # It becomes a plain attribute, since in training it has a history.
            del owner._parameters[leaf]
        return empty

    def _join_all(self, encoder: SequenceEncoderModel) -> None:
        for name, places, rule in self._joined:
            owner, leaf = _place(encoder, name)
            setattr(owner, leaf, self._join(places, rule))

    def _join(self, places: list[_Place], rule: Rule) -> torch.Tensor:
        return rule.layout.join([_value(place) for place in places], self.heads)

    def prepare(self, training: bool, checkpointing: Any = None) -> SequenceEncoderModel:
        """Return the encoder to compute with, which has the present weights.

        Args:
            training: Whether the source is in training mode.
            checkpointing: The function with which it recomputes its layers in the backward pass; None if it does not.
        """
        joined = [_value(place) for _, places, _ in self._joined for place in places]
        if torch.is_grad_enabled() and any(each.requires_grad for each in joined):
            encoder = self._learning
            self._join_all(encoder)
        else:
            encoder = self._without_gradients(joined, training)
        if encoder.training != training:
            cast(nn.Module, encoder).train(training)
        for layer in cast("list[EncoderLayer]", encoder.layers):
            layer.gradient_checkpointing = checkpointing is not None
            layer._gradient_checkpointing_func = checkpointing
        return encoder

    def in_dtype(self, dtype: torch.dtype | None) -> SequenceEncoderModel:
        """Set the dtype of inference, and return the encoder that computes in it."""
        self.dtype = dtype
        return self.prepare(training=False)

    def _without_gradients(self, joined: list[torch.Tensor], training: bool) -> SequenceEncoderModel:
        """Return the encoder whose joined weights have no history, or its copy in the dtype of inference."""
        copied = self.dtype is not None and not training and not torch.is_grad_enabled()
        tensors = [*joined, *(parameter for _, parameter in self._shared)] if copied else joined
        # Fused optimizers change weights without raising their version.
        state = [number_of_steps(), copied, *map(_version, tensors)]
        if state != self._state:
            # What is made in inference mode could neither be prepacked nor be used for gradients of other tensors.
            with torch.inference_mode(False), torch.no_grad():
                self._join_all(self.encoder)
                self._copy = self._copied() if copied else None
            self._state = state
        # Another thread may have removed the copy meanwhile.
        return (self._copy if copied else None) or self.encoder

    def _copied(self) -> SequenceEncoderModel:
        """Return a copy of the encoder in the dtype of inference."""
        with torch.device("meta"):
            made = SequenceEncoderModel(self.encoder.config, add_pooling_layer=self.encoder.pooler is not None)
        for name in made.state_dict():
            owner, leaf = _place(made, name)
            weight = _value(_place(self.encoder, name)).detach().to(self.dtype)
            owner._parameters[leaf] = nn.Parameter(weight, requires_grad=False)
        made.eval()
        if self.prepacked:
            made.prepack_weights()
        return made


def _place(model: Any, name: str) -> _Place:
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf


def _parameter_place(model: Any, name: str) -> _Place:
    """Return the place of a parameter, which `torch.func`, quantization and replicas for several devices replace."""
    try:
        owner, leaf = _place(model, name)
    except AttributeError as error:
        raise ValueError(f"this {type(model).__name__} has no {name}") from error
    if type(owner._parameters.get(leaf)) is not nn.Parameter:
        raise ValueError(f"{name} is not a parameter of this {type(model).__name__}; it was replaced.")
    return owner, leaf


def _value(place: _Place) -> Any:
    return getattr(*place)


def _version(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Return what differs after a tensor was changed. Tensors of inference mode do not count their changes."""
    return object() if tensor.is_inference() else tensor._version, tensor.data_ptr(), tensor.dtype
