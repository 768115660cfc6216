"""What a family of models is for the conversion: tables of configuration fields, weights and heads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import transformers
from transformers import PreTrainedConfig

from ..configuration import SequenceEncoderConfig
from ..configuration.rope_parameters import check_rope_parameters
from .key_mapping import Rule, Tensors, for_layers, with_prefixes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Fields that have the same name in most families and in ours.
SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)
_LAYER_TYPE = "full_attention"


@dataclass(frozen=True)
class Head:
    """A head of a family: its weights, and the configuration fields that it fixes.

    Args:
        rules: The rules for its weights.
        settings: The values that our fields always have for this head.
        fields: Maps our field names to theirs, where they differ from the names in the rest of the family.
        required: Their fields that must have a given value, in addition to the family's.
        same: Maps each of their fields to another one that must have the same value.
    """

    rules: Sequence[Rule] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    required: Mapping[str, Any] = field(default_factory=dict)
    same: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """A family of encoders that share an architecture and the names of its parts.

    Args:
        name: The name of the family, as in the presets.
        model_prefixes: The prefixes of its class names. Converting back creates classes with the first prefix.
        fields: Maps our field names to theirs, where both have the same value.
        settings: The values that our fields have for the whole family.
        required: Their fields that must have a given value. A missing field counts as having it.
        trunk: The rules for embeddings and norms.
        layer: The rules for one layer, with `{}` for its index.
        heads: The heads by the suffix of the class name, such as `ForMaskedLM`, which is the same on both sides.
        read: Returns the remaining fields of our configuration, computed from theirs.
        write: Returns the remaining fields of their configuration, computed from ours.
        constants: Returns the tensors of their model that its configuration determines, and that ours computes.
        types_optional: Whether the family supports `type_vocab_size=0`.
        renamed: Maps old names of their fields, which some checkpoints use, to the names in transformers.
        variant: Returns the head to use instead of the one in `heads`, given its name and either configuration; None
            for that one.
        unstated: Fields of pretraining checkpoints with a masked-LM head that their configurations do not state.
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
    constants: Callable[[PreTrainedModel], dict[str, Any]] = lambda model: {}
    types_optional: bool = False
    renamed: Mapping[str, str] = field(default_factory=dict)
    variant: Callable[[str, PreTrainedConfig], Head | None] = lambda head, config: None
    unstated: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_pooler(self) -> bool:
        """Whether the model without a head can have a pooler."""
        return any(rule.ours.startswith("pooler.") for rule in self.trunk)

    def head(self, name: str, config: PreTrainedConfig) -> Head:
        """Return the head with this name of a model with this configuration, ours or theirs."""
        return self.variant(name, config) or self.heads[name]

    def faults(self, head: str, config: PreTrainedConfig) -> list[str]:
        """List the fields of their configuration that have a value other than the one that they must have.

        Args:
            head: The suffix of the class name, such as `ForMaskedLM`.
            config: Their configuration.

        Returns:
            A sentence for each field.
        """
        special = self.head(head, config)
        pairs = special.same.items()
        needed = {name: (getattr(config, name), getattr(config, other), other) for name, other in pairs}
        faults = [
            f"{name}={value!r} is not supported: it must equal {other}={only!r}."
            for name, (value, only, other) in needed.items()
            if value != only
        ]
        required = {**self.required, **special.required}
        given = {name: getattr(config, name, only) for name, only in required.items()}
        return faults + [
            f"{name}={given[name]!r} is not supported: a SequenceEncoder needs {name}={only!r}."
            for name, only in required.items()
            if given[name] != only
        ]

    def check(self, head: str, config: PreTrainedConfig) -> None:
        """Check the fields of their configuration that must have a given value, or the same value as another field.

        Args:
            head: The suffix of the class name, such as `ForMaskedLM`.
            config: Their configuration.

        Raises:
            ValueError: If fields have other values. The message names all of them.
        """
        if faults := self.faults(head, config):
            raise ValueError(" ".join(faults))

    def all_fields(self, head: str) -> dict[str, str]:
        """Map our field names to theirs, for a model with this head."""
        return {**self.fields, **self.heads[head].fields}

    def rules(self, head: str, config: SequenceEncoderConfig, base_model_prefix: str) -> list[Rule]:
        """Return all rules for a model.

        Args:
            head: The suffix of the class name, such as `ForMaskedLM`.
            config: Our configuration.
            base_model_prefix: The attribute that holds the trunk in their class.
        """
        ours, theirs = ("", "") if head == "Model" else ("model.", f"{base_model_prefix}.")
        trunk = [*self.trunk, *for_layers(self.layer, config.num_distinct_layers)]
        return [*with_prefixes(trunk, ours, theirs), *self.head(head, config).rules]


@dataclass(frozen=True)
class RemoteCodeFamily:
    """A family whose code is on the Hub, so that its checkpoints are read without running that code.

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


def their_class(name: str) -> Any:
    """Return the class of transformers with this name.

    Raises:
        ValueError: If the installed release is too old to have it.
    """
    found = getattr(transformers, name, None)
    if found is None:
        raise ValueError(f"transformers {transformers.__version__} has no {name}; install a newer release.")
    return found


def check_head_dim(config: PreTrainedConfig) -> None:
    """Check that the attention heads divide the channels of the layers among them.

    Raises:
        ValueError: If they do not.
    """
    heads, channels = config.num_attention_heads, config.hidden_size
    if config.head_dim is not None and config.head_dim * heads != channels:
        raise ValueError(
            f"head_dim={config.head_dim} is not supported: it must equal hidden_size / num_attention_heads = "
            f"{channels} / {heads}."
        )


def share(tensors: Tensors, *names: str) -> None:
    """Give tensors that a model shares the same values, if a checkpoint has only one of them."""
    given = [name for name in names if name in tensors]
    for name in names:
        if given and name not in tensors:
            tensors[name] = tensors[given[0]]


def read_rope(config: PreTrainedConfig) -> dict[str, Any]:
    """Return our `rope_parameters` for those of a family whose layers all have the same type.

    Raises:
        ValueError: If their type is not supported.
    """
    truncate = config.rope_parameters.get("truncate", True)
    if not truncate:
        # The function of transformers for "yarn" ignores it in parameters that are nested by layer type.
        raise ValueError(f"rope_parameters['truncate']={truncate!r} is not supported: a SequenceEncoder needs True.")
    nested = {_LAYER_TYPE: dict(config.rope_parameters)}
    check_rope_parameters(nested, [_LAYER_TYPE])
    return {"rope_parameters": nested}


def write_rope(config: PreTrainedConfig) -> dict[str, Any]:
    """Return the `rope_parameters` of such a family for ours."""
    return {"rope_parameters": dict((config.rope_parameters or {}).get(_LAYER_TYPE, {}))}
