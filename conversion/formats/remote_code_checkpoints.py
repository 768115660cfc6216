"""Reads checkpoints whose code is on the Hub from `config.json` and safetensors alone. Their code never runs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.utils import logging

from ...configuration import SequenceEncoderConfig
from ...saving.loading import check_dtype
from ..families.gte import GTE_REMOTE_CODE
from ..families.jina_bert import JINA_BERT
from ..families.neobert import NEOBERT
from ..families.nomic_bert import NOMIC_REMOTE_CODE
from ..family import Family, RemoteCodeFamily
from ..key_mapping import Tensors
from ..peft_adapters import find_adapter
from ..source_models import config_fields, transformer_folder
from .gliclass import GliclassCheckpoint
from .gliner import find_gliner
from .package_checkpoints import PackageCheckpoint
from .static_embeddings import find_static
from .weight_files import read_weights, weight_files

logger = logging.get_logger(__name__)

REMOTE_CODE_FAMILIES: dict[str, RemoteCodeFamily] = {
    family.name: family for family in (NEOBERT, JINA_BERT, GTE_REMOTE_CODE, NOMIC_REMOTE_CODE)
}
_COMMON = ("tie_word_embeddings", "pad_token_id", "bos_token_id", "eos_token_id", "problem_type")
_LABELS = ("id2label", "label2id", "num_labels", "problem_type")


@dataclass(frozen=True)
class RemoteCodeCheckpoint:
    """A checkpoint whose code is on the Hub.

    Attributes:
        place: The folder or Hub id of its encoder.
        family: Its family.
        architecture: The name of its class.
        head: The head of that class, as in `family.table.heads`; None if it has no counterpart.
        fields: The content of its `config.json`.
        where: Where its code is.
    """

    where = "on the Hub"
    place: str | os.PathLike[str]
    family: RemoteCodeFamily
    architecture: str
    head: str | None
    fields: dict[str, Any]

    @property
    def config(self) -> Any:
        """Its configuration, with a value for every field that the table of the family reads.

        Raises:
            ValueError: If a field has the wrong type.
        """
        if self.fields.get("quantization_config") is not None:
            raise ValueError("quantization_config is not supported: the weights must be floating numbers.")
        given = dict(self.fields)
        for old, new in self.family.table.renamed.items():
            if old in given and given.get(new) is None:
                given[new] = given[old]
        values = {**self.family.defaults, **{name: value for name, value in given.items() if value is not None}}
        for name, default in self.family.defaults.items():
            _check_type(name, values[name], default)
        labels = {name: given[name] for name in _LABELS if given.get(name) is not None}
        try:
            common = PreTrainedConfig(**labels)
        except (TypeError, AttributeError) as error:
            raise ValueError(f"The labels of {self.place} are not valid: {error}") from error
        values |= {name: values.get(name) for name in _COMMON}
        if values["tie_word_embeddings"] is None:
            values["tie_word_embeddings"] = True
        values |= {"id2label": common.id2label, "label2id": common.label2id}
        dtype = given.get("dtype", given.get("torch_dtype"))
        check_dtype("dtype", dtype)
        return SimpleNamespace(**{**values, "dtype": dtype})

    @property
    def table(self) -> Family:
        """The table of the family for this configuration."""
        return self.family.variant(self.family.table, self.config)

    @property
    def unknown_fields(self) -> list[str]:
        """The fields of `config.json` that neither the table nor transformers knows. They could change the outputs."""
        table = self.family.table
        known = {*self.family.defaults, *table.required, *table.renamed, *self.family.without_effect, *_LABELS}
        known |= {
            *_COMMON,
            *vars(PreTrainedConfig()),
            *PreTrainedConfig().to_dict(),
            "auto_map",
            "torch_dtype",
            "use_cache",
        }
        known |= {name for head in table.heads.values() for name in head.required}
        return sorted(name for name in self.fields if name not in known and not name.startswith("_"))

    def named_head(self) -> str:
        """Return the head of its class.

        Raises:
            ValueError: If the head has no counterpart.
        """
        if self.head is None:
            raise ValueError(
                f"{self.architecture} cannot be converted. The supported models of its family are "
                f"{', '.join(self.family.classes)}. Pass base_model=True or --base_model to convert only its encoder."
            )
        return self.head

    def load(self, base_model: bool) -> tuple[str, Tensors]:
        """Load the weights under the names in the table.

        Args:
            base_model: Whether to leave out the head.

        Returns:
            The head, which is `Model` if the checkpoint has no head, and the weights.

        Raises:
            OSError: If there are no safetensors weights, or their index is damaged.
            ValueError: If the head has no counterpart, or weights are damaged or have no floating dtype.
        """
        prefix = f"{self.family.base_model_prefix}."
        table = self.table
        parts = {rule.theirs[0].partition(".")[0] for rule in (*table.trunk, *table.layer)}
        tensors = read_weights(self.place)
        prefixed = any(name.startswith(prefix) for name in tensors)
        trunk: Tensors = {}
        rest: Tensors = {}
        for name, tensor in tensors.items():
            inside = name.startswith(prefix) if prefixed else name.partition(".")[0] in parts
            (trunk if inside else rest)[name.removeprefix(prefix)] = tensor
        head = "Model" if base_model else self.named_head()
        if head != "Model" and not rest:
            logger.warning(f"{self.place} names {self.architecture}, but has no head; only the encoder is converted.")
            head = "Model"
        if base_model:
            rest = {}
        if head != "Model":
            trunk = {prefix + name: tensor for name, tensor in trunk.items()}
        tensors = {**trunk, **rest}
        self.family.complete(tensors, self.config)
        return head, tensors


def find_remote_code(
    checkpoint: str | os.PathLike[str], weights: bool = True
) -> RemoteCodeCheckpoint | PackageCheckpoint | None:
    """Recognise a checkpoint whose code is on the Hub or in another package, and never runs.

    Args:
        checkpoint: A folder or a Hub id.
        weights: Whether to look at the names of weights where `config.json` does not tell the formats apart.

    Returns:
        The checkpoint; None if transformers has its class, or its family is unknown.

    Raises:
        OSError: If `config.json` is missing or damaged.
        ValueError: If `config.json` is invalid.
    """
    place = transformer_folder(checkpoint)
    if find_adapter(place) is not None:
        return None
    try:
        fields = config_fields(place)
    except OSError:
        if (found := find_static(place, {}) or find_gliner(place)) is None:
            raise
        return found
    if (static := find_static(place, fields)) is not None:
        return static
    if fields.get("model_type") == GliclassCheckpoint.model_type:
        return GliclassCheckpoint(place, fields)
    architectures, auto_map = fields.get("architectures") or [None], fields.get("auto_map") or {}
    named = architectures[0] if isinstance(architectures, list) else None
    if fields.get("model_type") == SequenceEncoderConfig.model_type or not isinstance(named, str | None):
        return None
    auto_model = auto_map.get("AutoModel") if isinstance(auto_map, dict) else None
    base = auto_model.rpartition(".")[2] if isinstance(auto_model, str) else None
    for family in REMOTE_CODE_FAMILIES.values():
        if not (
            family.has(named)
            or family.has(base)
            or fields.get("model_type") in family.model_types
            or (weights and named in family.renamed_weights and auto_map and _has_weights_of(family, place))
        ):
            continue
        architecture = named or base or next(iter(family.classes))
        head = family.classes.get(architecture)
        return RemoteCodeCheckpoint(place, family, architecture, head, fields)
    # Some repositories of GLiNER also have a `config.json`, which says nothing about the encoder.
    return None if fields.get("model_type") in CONFIG_MAPPING else find_gliner(place)


def _has_weights_of(family: RemoteCodeFamily, place: str | os.PathLike[str]) -> bool:
    """Return whether the weights have the names of the code on the Hub, rather than those of transformers."""
    prefix = f"{family.base_model_prefix}."
    for file in weight_files(place):
        try:
            with safe_open(file, framework="pt") as opened:
                if any(name.startswith(prefix) for name in opened.keys()):  # noqa: SIM118
                    return True
        except SafetensorError:
            continue  # Loading reports it.
    return False


def _check_type(name: str, value: Any, default: Any) -> None:
    """Check that a field has the type of its default. Booleans are no numbers."""
    if isinstance(default, bool):
        valid, wanted = isinstance(value, bool), "true or false"
    elif isinstance(default, int | float):
        valid, wanted = isinstance(value, int | float) and not isinstance(value, bool), "a number"
        valid = valid and (isinstance(value, int) or isinstance(default, float))
    elif isinstance(default, str):
        valid, wanted = isinstance(value, str), "a string"
    else:
        return
    if not valid:
        raise ValueError(f"{name} must be {wanted}, got {value!r}.")
