"""The description of a family whose code is on the Hub, so that its checkpoints are read without running that code."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import transformers

from .family import Family
from .key_mapping import Tensors


@dataclass(frozen=True)
class RemoteCodeFamily:
    """A family whose code is on the Hub.

    Args:
        table: Maps its fields and weights to ours. Nothing is converted back to it.
        classes: Maps the names of its classes to their heads in `table`.
        defaults: The values that its code uses for fields that `config.json` leaves out.
        base_model_prefix: The attribute that holds the trunk in its classes.
        model_types: The model types that no other family has.
        core: The family of transformers with the same architecture, if there is one.
        renamed_weights: Its classes that transformers also has, but with another prefix of the weights.
        without_effect: Further fields, which do not change its outputs.
        variant: Returns the table for a given configuration.
        complete: Adds the tensors that a checkpoint leaves out because they are zero or shared with others.
    """

    table: Family
    classes: Mapping[str, str]
    defaults: Mapping[str, Any]
    base_model_prefix: str
    model_types: Collection[str] = ()
    core: str | None = None
    renamed_weights: Collection[str] = ()
    without_effect: Collection[str] = ()
    variant: Callable[[Family, Any], Family] = lambda table, config: table
    complete: Callable[[Tensors, SimpleNamespace], None] = lambda tensors, config: None

    @property
    def name(self) -> str:
        """The name of the family."""
        return self.table.name

    def has(self, class_name: str | None) -> bool:
        """Return whether this is a class of the family that transformers does not have."""
        return class_name in self.classes and not hasattr(transformers, class_name or "")


def share(tensors: Tensors, *names: str) -> None:
    """Give tensors that a model shares the same values, if a checkpoint has only one of them."""
    given = [name for name in names if name in tensors]
    for name in names:
        if given and name not in tensors:
            tensors[name] = tensors[given[0]]
