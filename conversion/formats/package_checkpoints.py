"""Checkpoints of other packages, which are not imported.

Most put an encoder of a known family under a head of their own. The table of the family maps the weights of the
encoder, and a table for the package those of the head.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, PreTrainedConfig

from ...configuration import SequenceEncoderConfig
from ..configurations import read_config
from ..family import Family
from ..key_mapping import Heads, Rule, Tensors, to_ours, with_prefixes
from ..source_models import find_family

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ...modeling import SequenceEncoderPreTrainedModel
    from ...modeling.text_encoding.embedding_recipe import EmbeddingRecipe


@dataclass(frozen=True)
class PackageCheckpoint(ABC):
    """A checkpoint of another package.

    Args:
        place: The folder or Hub id.
        fields: The content of its configuration.

    Attributes:
        architecture: The name of its class, or of the package.
        where: Where its code is, in words.
        model_class: The name of the class that computes the same.
        allowed: The values that a field may have. The first is the default.
    """

    architecture: ClassVar[str]
    where: ClassVar[str]
    model_class: ClassVar[str]
    allowed: ClassVar[Mapping[str, tuple[Any, ...]]]
    place: str | os.PathLike[str]
    fields: Mapping[str, Any]

    @property
    @abstractmethod
    def family(self) -> str:
        """The name of the family of its encoder.

        Raises:
            ValueError: If transformers does not know the encoder, or its configuration is not valid.
        """

    @abstractmethod
    def config(self, theirs: Mapping[str, Any]) -> tuple[SequenceEncoderConfig, list[Rule]]:
        """Return our configuration, and the rules for the weights of the encoder.

        Args:
            theirs: Their weights by name, as far as they have been read.

        Raises:
            ValueError: If the configuration has no equivalent.
        """

    @abstractmethod
    def convert(self, base_model: bool = False) -> SequenceEncoderPreTrainedModel:
        """Convert it. See `convert`.

        Args:
            base_model: Whether to convert only the encoder.

        Raises:
            ValueError: If the configuration has no equivalent, or if weights are missing, unused or of another shape.
        """

    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """Load its tokenizer with the tokens that the package adds; None if that in its folder has them."""
        return None

    def recipe(self) -> EmbeddingRecipe | None:
        """Return how its texts become vectors; None if its folder says nothing about it."""
        from ...modeling.text_encoding.recipe_files import read_recipe

        return read_recipe(self.place)

    def check(self) -> None:
        """Check that the fields have values that our model supports.

        Raises:
            ValueError: If some have others. The message names all of them.
        """
        faults = []
        for name, allowed in self.allowed.items():
            value = self.fields.get(name, allowed[0])
            # True equals 1.
            if not any(type(value) is type(each) and value == each for each in allowed):
                faults.append(f"{name}={value!r} is not supported: it must be {' or '.join(map(repr, allowed))}.")
        if faults:
            raise ValueError(f"{self.place} cannot be converted. {' '.join(faults)}")


class HeadedCheckpoint(PackageCheckpoint):
    """A checkpoint of another package with an encoder of a known family under a head.

    Attributes:
        encoder_prefix: What comes before the names of its encoder's weights.
    """

    encoder_prefix: ClassVar[str]

    @property
    def family(self) -> str:
        """See `PackageCheckpoint.family`."""
        return str(self.encoder_config.model_type)

    @property
    @abstractmethod
    def encoder_config(self) -> PreTrainedConfig:
        """The configuration of its encoder.

        Raises:
            ValueError: If transformers does not know it, or it is not valid.
        """

    @abstractmethod
    def complete(self, config: SequenceEncoderConfig) -> None:
        """Add to the configuration of its encoder what the head needs."""

    @abstractmethod
    def head_rules(self, needed: Sequence[str]) -> list[Rule]:
        """Return the rules for the weights of the head, given our names of all weights."""

    @abstractmethod
    def weights(self) -> Tensors:
        """Read the weights that the outputs need, by their names.

        Raises:
            OSError: If there are none.
            ValueError: If they are damaged.
        """

    def other_encoders(self, theirs: Tensors, needed: Sequence[str]) -> Tensors:
        """Return our weights of its further encoders, and remove theirs.

        Args:
            theirs: All of their weights.
            needed: Our names of all weights.
        """
        return {}

    def add_to(self, model: SequenceEncoderPreTrainedModel) -> None:  # most have nothing to add
        """Give a model what is not in its configuration and its weights."""

    def read_encoder_config(self, fields: Mapping[str, Any]) -> PreTrainedConfig:
        """Return the configuration of its encoder, given its fields. See `encoder_config`."""
        given = dict(fields)
        kind = given.pop("model_type", "deberta-v2")
        if kind not in CONFIG_MAPPING:
            raise ValueError(f"{self.place} has an encoder of the type {kind!r}, which is not supported.")
        try:
            return CONFIG_MAPPING[kind](**given)
        except (TypeError, AttributeError, KeyError) as error:
            raise ValueError(f"The configuration of the encoder in {self.place} is not valid: {error}") from error

    def config(self, theirs: Mapping[str, Any]) -> tuple[SequenceEncoderConfig, list[Rule]]:
        """See `PackageCheckpoint.config`."""
        found = self.encoder_config
        family, head = family_of(found)
        config = read_config(family, head, found)
        config.pooler_act = None
        rules = with_prefixes(family.rules(head, config, ""), "model.", self.encoder_prefix)
        (embeddings,) = (rule.theirs[0] for rule in rules if rule.ours == "model.embed_tokens.weight")
        if embeddings in theirs:
            # The package adds rows for its tokens, which the configuration of the encoder may not count.
            config.vocab_size = len(theirs[embeddings])
        self.complete(config)
        try:
            config.validate()
        except StrictDataclassError as error:
            raise ValueError(f"{self.place} cannot be converted. {error}") from error
        return config, rules

    def convert(self, base_model: bool = False) -> SequenceEncoderPreTrainedModel:
        """See `PackageCheckpoint.convert`."""
        # `inspect` needs no torch.
        import torch
        from transformers.initialization import no_init_weights

        from ... import modeling
        from ...modeling.given_weights import fill

        self.check()
        model_class: Any = getattr(modeling, self.model_class)
        theirs = self.weights()
        config, rules = self.config(theirs)
        with torch.device("meta"):
            needed = model_class(config).state_dict()
        heads = Heads(config.num_attention_heads, config.key_value_heads)
        ours = self.other_encoders(theirs, list(needed))
        rest = [name for name in needed if name not in ours]
        ours |= to_ours([*rules, *self.head_rules(rest)], theirs, rest, heads)
        for name, tensor in ours.items():
            if tensor.shape != needed[name].shape:
                raise ValueError(
                    f"The weights of {self.place} do not fit its configuration: {name} of the new model would have the "
                    f"shape {tuple(tensor.shape)}, and needs {tuple(needed[name].shape)}."
                )
        dtype = ours["model.embed_tokens.weight"].dtype
        with no_init_weights():
            model = model_class(config)
        fill(model, {name: tensor.to(dtype) for name, tensor in ours.items()})
        model.config.dtype = dtype
        self.add_to(model)
        return cast("SequenceEncoderPreTrainedModel", model.base_model if base_model else model)


def family_of(config: PreTrainedConfig) -> tuple[Family, str]:
    """Return the family of an encoder without a head, given its configuration, and what `find_family` calls no head.

    Raises:
        ValueError: If the family is not supported.
    """
    return find_family(f"{type(config).__name__.removesuffix('Config')}Model")
