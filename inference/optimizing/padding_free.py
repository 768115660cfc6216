"""Lets an encoder of transformers compute its batches without padding, as an instance of a subclass of its class."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from types import UnionType
from typing import Any, NamedTuple, cast

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import ModelOutput

from ...modeling.cpu.busy_neighbours import warned_of_busy_neighbours
from ...modeling.cpu.eligibility import is_recorded
from .linked_encoder import LinkedEncoder
from .structure import Structure

# The arguments of `forward` that a SequenceEncoder computes as the other families do.
_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "inputs_embeds")
# Heads pass on the number of targets, which Trainer gives them for the loss.
_TAKEN = {*_INPUTS, "return_dict", "use_cache", "num_items_in_batch"}
# Attributes that are set on the model. Copies of the model drop the link, and make their own on first use.
_LINK, _SETTINGS = "_linked_encoder", "_linked_encoder_settings"
# In float32, fewer tokens without padding take as long with the class itself. See benchmarks/RESULTS.md.
_LEAST_TOKENS = 256


class _Link(NamedTuple):
    """A linked encoder and the structure that it was made for, or the reason why there is no encoder."""

    structure: Structure
    encoder: LinkedEncoder | None
    obstacle: str | None = None


class PaddingFree:
    """Mixin for encoder classes. Their own `forward` runs for calls that a SequenceEncoder handles differently."""

    def __reduce_ex__(self: Any, protocol: Any) -> Any:
        state = {name: value for name, value in self.__dict__.items() if name != _LINK}
        return _restored, (type(self).__mro__[2],), state


def make_padding_free(model: PreTrainedModel, link: LinkedEncoder) -> None:
    """Make an encoder compute without padding, in place.

    Args:
        model: The encoder, without a head.
        link: The encoder that is linked to it.
    """
    model.__dict__[_LINK] = _Link(link.structure, link)
    model.__dict__[_SETTINGS] = (link.prepacked, link.dtype)
    if not isinstance(model, PaddingFree):
        model.__class__ = _padding_free(cast(Any, type(model)))


def inference_dtype(model: Any) -> torch.dtype | None:
    """Return the dtype that a padding-free encoder was told to compute in; None for that of its weights."""
    dtype: torch.dtype | None = model.__dict__[_SETTINGS][1]
    return dtype


@functools.cache
def _padding_free(model_class: Any) -> Any:
    """Return the subclass for a class of encoders. It has the same name, which libraries read."""
    original = model_class.forward
    names = tuple(inspect.signature(original).parameters)[1:]
    output_class = _output_class(original)
    known = {field.name for field in dataclasses.fields(cast(Any, output_class))}

    @functools.wraps(original)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        inputs = {**dict(zip(names, args, strict=False)), **kwargs}
        # An argument that is unknown or given twice is an error of the class itself.
        encoder = _encoder_for(self, inputs) if len(inputs) == len(args) + len(kwargs) else None
        if encoder is None:
            return original(self, *args, **kwargs)
        with warned_of_busy_neighbours(self.device):
            found = encoder(**{name: inputs[name] for name in _INPUTS if inputs.get(name) is not None})
        vectors = {name: vector.to(self.dtype) for name, vector in found.items() if name in known}
        outputs = output_class(**vectors)
        in_dict = inputs.get("return_dict")
        return outputs if (self.config.return_dict if in_dict is None else in_dict) else outputs.to_tuple()

    own = {"forward": forward, "__module__": model_class.__module__, "__qualname__": model_class.__qualname__}
    return type(model_class.__name__, (PaddingFree, model_class), own)


def _encoder_for(model: Any, inputs: dict[str, Any]) -> Any:
    """Return the linked encoder if it computes these inputs as the model does, and faster, or else None."""
    others = (value for name, value in inputs.items() if name not in _TAKEN)
    config = model.config
    if (
        is_recorded()
        or any(value is not None and value is not False for value in others)
        or config.output_hidden_states
        or config.output_attentions
    ):
        return None
    former = model.__dict__.get(_LINK) or _present_link(model)
    # Short texts are left alone before the structure is compared, which takes a while.
    if former.encoder is not None and not _is_suitable(former.encoder, inputs):
        return None
    link = _present_link(model)
    if link.encoder is None or link.structure.obstacle(model.training):
        return None
    if link is not former and not _is_suitable(link.encoder, inputs):
        return None
    return link.encoder.prepare(model.training, _checkpointing(model) if model.training else None)


def _checkpointing(model: Any) -> Any:
    """Return the function with which a model recomputes its layers in the backward pass, or None if it keeps them."""
    layers = (module for module in model.modules() if getattr(module, "gradient_checkpointing", False))
    return next((layer._gradient_checkpointing_func for layer in layers), None)


def _present_link(model: Any) -> _Link:
    """Return the link of a padding-free model, which is made again after the structure of the model has changed."""
    link: _Link | None = model.__dict__.get(_LINK)
    if link is None or not link.structure.is_that_of(model):
        try:
            encoder = LinkedEncoder(model, *model.__dict__[_SETTINGS])
            link = _Link(encoder.structure, encoder)
        except ValueError as error:
            link = _Link(Structure(model, {}), None, str(error))
        model.__dict__[_LINK] = link
    return link


def obstacle_of(model: PreTrainedModel) -> str | None:
    """Return why no SequenceEncoder computes what an encoder does now; None if one does."""
    if isinstance(model, PaddingFree):
        link = _present_link(model)
        return link.obstacle or link.structure.obstacle(model.training)
    try:
        return LinkedEncoder(model, False, None).structure.obstacle(model.training)
    except ValueError as error:
        return str(error)


def _is_suitable(link: LinkedEncoder, inputs: dict[str, Any]) -> bool:
    """Return whether a batch is large enough, and each of its rows has tokens, and padding only after them."""
    ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    tokens = [each for each in (ids, inputs.get("inputs_embeds")) if each is not None]
    if len(tokens) != 1 or tokens[0].dim() < 2 or tokens[0].numel() == 0:
        return False
    rows, length = tokens[0].shape[:2]
    segments = inputs.get("token_type_ids")
    if segments is not None and segments.shape != (rows, length):
        return False
    if mask is not None and (mask.shape != (rows, length) or mask.is_floating_point()):
        return False
    config = link.encoder.config
    always = rows * length >= _LEAST_TOKENS or config.position_bias == "disentangled" or link.dtype is not None
    if not always and (mask is None or bool(mask.all())):
        return False
    if mask is not None and not bool(mask[:, 0].all()):
        return False
    # RoBERTa and others derive positions from the ids, so they place unmasked padding tokens differently.
    if ids is not None and config.position_offset:
        padding = ids == config.pad_token_id
        return not bool((padding if mask is None else padding & mask.bool()).any())
    return True


def _output_class(forward: Any) -> type[ModelOutput]:
    """Return the class of the outputs of a `forward`."""
    annotation = typing.get_type_hints(inspect.unwrap(forward)).get("return")
    options = typing.get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    classes = [each for each in options if isinstance(each, type) and issubclass(each, ModelOutput)]
    return classes[0] if classes else BaseModelOutput


def _restored(model_class: Any) -> Any:
    padding_free = _padding_free(model_class)
    return padding_free.__new__(padding_free)
