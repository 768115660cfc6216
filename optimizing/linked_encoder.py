"""A SequenceEncoder that computes with the weights of an encoder of another family, without a copy of most of them.

Where both families have the same tensor, the two models share one `Parameter`. A tensor that joins several of theirs,
such as the projection of queries, keys and values, is made from them: once for inference, and again for each pass of a
training, so that gradients reach the weights of the other model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from ..conversion.converting import check_constants, our_config, table_heads
from ..conversion.key_mapping import SAME, Rule
from ..conversion.source_models import find_family
from ..modeling import SequenceEncoderModel
from ..modeling.cpu.prepacked import number_of_steps
from ..modeling.layers import EncoderLayer

_Place = tuple[nn.Module, str]


class LinkedEncoder:
    """A SequenceEncoder that is linked to an encoder of another family.

    Args:
        source: The encoder, without a head.
        prepacked: Whether inference on a CPU uses copies of the weights in oneDNN's layout.
        dtype: The dtype of inference, which needs a copy of all weights; None for that of the source.

    Attributes:
        encoder: The SequenceEncoder with the weights of the source.

    Raises:
        ValueError: If there is no SequenceEncoder with the same outputs.
    """

    def __init__(self, source: PreTrainedModel, prepacked: bool, dtype: torch.dtype | None) -> None:
        config = our_config(source)
        check_constants(source)
        self.heads, self.prepacked, self.dtype = table_heads(config), prepacked, dtype
        self._source, self.encoder = source, self._empty_encoder(config, source)
        family, head = find_family(type(source).__name__)
        rules = {rule.ours: rule for rule in family.rules(head, config, source.base_model_prefix)}
        self._joined: list[tuple[_Place, list[_Place], Rule]] = []
        self._shared: list[tuple[nn.Module, str, nn.Parameter]] = []
        for name, needed in self.encoder.state_dict().items():
            place = _place(self.encoder, name)
            self._link(place, [_parameter_place(source, theirs) for theirs in rules[name].theirs], rules[name])
            if (shape := _value(place).shape) != needed.shape:
                raise ValueError(f"{name} would have the shape {tuple(shape)} instead of {tuple(needed.shape)}.")
        if prepacked:
            self.encoder.prepack_weights()
        self._modules = [(parent._modules, key, module) for parent, key, module in _edges(cast(nn.Module, source))]
        self._state: list[Any] | None = None
        self._copy: SequenceEncoderModel | None = None

    @staticmethod
    def _empty_encoder(config: Any, source: PreTrainedModel) -> SequenceEncoderModel:
        with torch.device("meta"):
            return SequenceEncoderModel(config, add_pooling_layer=getattr(source, "pooler", None) is not None)

    def _link(self, ours: _Place, theirs: list[_Place], rule: Rule) -> None:
        owner, name = ours
        if rule.layout is SAME:
            parameter = _value(theirs[0])
            owner._parameters[name] = parameter
            self._shared.append((*theirs[0], parameter))
        else:
            # A plain attribute, since in training it has a history.
            del owner._parameters[name]
            self._joined.append((ours, theirs, rule))
            setattr(owner, name, self._join(theirs, rule).detach())

    def _join(self, theirs: list[_Place], rule: Rule) -> torch.Tensor:
        return rule.layout.join([_value(place) for place in theirs], self.heads)

    @property
    def is_current(self) -> bool:
        """Whether the source still consists of the same modules and parameters, and nothing observes its modules."""
        # Resizing the vocabulary keeps the modules.
        if self._source.config.vocab_size != self.encoder.config.vocab_size:
            return False
        for siblings, key, module in self._modules:
            if siblings.get(key) is not module or module._forward_hooks or module._forward_pre_hooks:
                return False
            if module._backward_hooks or "forward" in module.__dict__:
                return False
        return all(owner._parameters.get(name) is parameter for owner, name, parameter in self._shared)

    def prepare(self, training: bool, checkpointing: Any = None) -> SequenceEncoderModel:
        """Return the encoder to compute with, which has the present weights.

        Args:
            training: Whether the source is in training mode.
            checkpointing: The function with which it recomputes its layers in the backward pass; None if it does not.
        """
        joined = [_value(place) for _, theirs, _ in self._joined for place in theirs]
        learns = torch.is_grad_enabled() and any(each.requires_grad for each in joined)
        copied = self.dtype is not None and not training and not torch.is_grad_enabled()
        tensors = [*joined, *(parameter for _, _, parameter in self._shared)] if copied else joined
        # Fused optimizers change weights without raising their version.
        state = [number_of_steps(), copied, *((each._version, each.data_ptr(), each.dtype) for each in tensors)]
        if learns or state != self._state:
            for (owner, name), theirs, rule in self._joined:
                weight = self._join(theirs, rule)
                setattr(owner, name, weight if learns else weight.detach())
            self._copy = self._copied() if copied else None
            self._state = None if learns else state
        encoder = self._copy or self.encoder
        if encoder.training != training:
            cast(nn.Module, encoder).train(training)
        for layer in cast("list[EncoderLayer]", encoder.layers):
            layer.gradient_checkpointing = checkpointing is not None
            layer._gradient_checkpointing_func = checkpointing
        return encoder

    def _copied(self) -> SequenceEncoderModel:
        """Return a copy of the encoder in the dtype of inference."""
        copy = self._empty_encoder(self.encoder.config, cast(PreTrainedModel, self.encoder))
        for name, _ in copy.state_dict().items():
            owner, leaf = _place(copy, name)
            weight = _value(_place(self.encoder, name)).detach().to(self.dtype)
            owner._parameters[leaf] = nn.Parameter(weight, requires_grad=False)
        copy.eval()
        if self.prepacked:
            copy.prepack_weights()
        return copy


def _place(model: Any, name: str) -> _Place:
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf


def _parameter_place(model: Any, name: str) -> _Place:
    """Return the place of a parameter, which adapters and parametrizations replace."""
    owner, leaf = _place(model, name)
    if leaf not in owner._parameters:
        raise ValueError(f"{name} is not a parameter of this {type(model).__name__}; it was replaced.")
    return owner, leaf


def _value(place: _Place) -> Any:
    return getattr(*place)


def _edges(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Yield each module below one with its parent and its name there."""
    for key, child in module._modules.items():
        if child is not None:
            yield module, key, child
            yield from _edges(child)
