"""Finds the encoders inside any object, such as a pipeline or a retriever."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from itertools import islice
from types import MemberDescriptorType
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from .linked_encoder import LinkedEncoder

# How many attributes of attributes are looked at: a retriever, its embedder, that one's backend, and its model.
_DEPTH = 4
_ITEMS = 100
# Objects that contain no model, and whose attributes may be many.
_OPAQUE = (str, bytes, int, float, complex, type, torch.Tensor, torch.dtype, torch.device, LinkedEncoder)


def encoders_in(root: Any) -> Iterator[tuple[str, PreTrainedModel]]:
    """Yield the encoders inside an object with their paths: each `PreTrainedModel` that has no other one inside it.

    Args:
        root: A module, or an object that holds modules in its attributes, lists or dictionaries, up to a few levels
            deep.
    """
    seen: set[int] = set()
    for path, module in modules_in(root):
        inside: list[tuple[str, PreTrainedModel]] = [
            (joined(path, name), each) for name, each in module.named_modules() if isinstance(each, PreTrainedModel)
        ]
        for name, model in inside:
            nested = (each for each in model.modules() if each is not model)
            if id(model) not in seen and not any(isinstance(each, PreTrainedModel) for each in nested):
                seen.add(id(model))
                yield name, model


def modules_in(root: Any) -> Iterator[tuple[str, nn.Module]]:
    """Yield the outermost modules inside an object with their paths. See `encoders_in`."""
    return _modules_in(root, "", _DEPTH, set())


def _modules_in(value: Any, path: str, depth: int, seen: set[int]) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(value, nn.Module):
        yield path, value
    if depth < 0 or isinstance(value, _OPAQUE) or hasattr(type(value), "__array__") or id(value) in seen:
        return
    if not isinstance(value, nn.Module):
        seen.add(id(value))
    for name, each in _parts_of(value):
        yield from _modules_in(each, joined(path, name), depth - 1, seen)


def joined(*parts: str) -> str:
    """Return the path of a part of a part of an object. The object itself has an empty path."""
    return ".".join(filter(None, parts))


def _parts_of(value: Any) -> list[tuple[str, Any]]:
    # The code of foreign objects may raise anything, such as that a dataset was closed.
    with suppress(Exception):
        if isinstance(value, Mapping):
            return [(str(key), each) for key, each in islice(value.items(), _ITEMS)]
        if isinstance(value, Sequence | Set):
            return [(str(index), each) for index, each in enumerate(islice(value, _ITEMS))]
        # Modules are found as such; this looks at what a module holds beside them.
        hidden = ("_modules", "_parameters", "_buffers") if isinstance(value, nn.Module) else ()
        own = [(name, each) for name, each in getattr(value, "__dict__", {}).items() if name not in hidden]
        return [*own, *_slots_of(value)]
    return []


def _slots_of(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of an object that are not in its dictionary, such as the private ones of pydantic."""
    for each in type(value).__mro__:
        if "__slots__" in vars(each):
            for name, slot in vars(each).items():
                with suppress(AttributeError):
                    if isinstance(slot, MemberDescriptorType):
                        yield name, slot.__get__(value)
