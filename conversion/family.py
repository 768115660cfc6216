"""What a family of encoders is to the conversion: tables of configuration fields, of weights and of heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedConfig

from .key_mapping import Rule, for_layers, with_prefixes

# Fields that most families call as we do.
SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)


@dataclass(frozen=True)
class Head:
    """A model of a family: what it has besides the trunk, and what of our configuration it settles.

    Args:
        rules: of its weights.
        settings: our fields that it always has so.
        fields: ours to theirs, where it calls them otherwise than the family.
        required: their fields that can only have this value, besides those of the family.
        same: their fields that must have the value of another of theirs.
    """

    rules: Sequence[Rule] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    required: Mapping[str, Any] = field(default_factory=dict)
    same: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """Encoders that share an architecture and the names of its parts.

    Args:
        name: as the presets have it.
        model_prefixes: what the names of its classes start with; the first ones are made on the way back.
        fields: ours to theirs, the same value under another name.
        settings: our fields that all of the family have in common.
        required: their fields that can only have this value; a field that is not there is taken to have it.
        trunk: rules of embeddings and norms.
        layer: rules of one layer, `{}` for its number.
        heads: by the end of the class name, such as `ForMaskedLM`, which is the same for us and for them.
        read: more of our fields, from their configuration.
        write: more of their fields, from ours.
    """

    name: str
    model_prefixes: Sequence[str]
    fields: Mapping[str, str]
    settings: Mapping[str, Any]
    required: Mapping[str, Any]
    trunk: Sequence[Rule]
    layer: Sequence[Rule]
    heads: Mapping[str, Head]
    read: Callable[[PreTrainedConfig], dict[str, Any]] = lambda config: {}
    write: Callable[[PreTrainedConfig], dict[str, Any]] = lambda config: {}

    @property
    def has_pooler(self) -> bool:
        """Whether the model without a head can have a pooler."""
        return any(rule.ours.startswith("pooler.") for rule in self.trunk)

    def all_fields(self, head: str) -> dict[str, str]:
        """Our fields and theirs of the same value, for a model with this head."""
        return {**self.fields, **self.heads[head].fields}

    def rules(self, head: str, depth: int, base_model_prefix: str) -> list[Rule]:
        """All rules of a model with `depth` layers, whose trunk is their `base_model_prefix`."""
        ours, theirs = ("", "") if head == "Model" else ("model.", f"{base_model_prefix}.")
        return [*with_prefixes([*self.trunk, *for_layers(self.layer, depth)], ours, theirs), *self.heads[head].rules]
