"""Loads checkpoints of other families, only if all weights are present and used."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from ... import modeling
from ...command_line.quiet import new_head
from ...configuration import SequenceEncoderConfig, TaskAdapterConfig
from ...saving.auto_classes import model_classes
from ...saving.loading import check_weight_maps
from ..family import Family
from ..peft_adapters import PeftAdapter, find_adapter
from ..source_models import config_fields, find_family, read_config, transformer_folder

logger = logging.get_logger(__name__)

# What transformers raises for fields that it does not check, such as an unknown activation or no attention heads.
_CANNOT_BE_BUILT = (KeyError, TypeError, AttributeError, IndexError, ArithmeticError, AssertionError, MemoryError)
# The last layer of a classifier, which has a row for each label.
_LAST_LAYER = re.compile(r"(^|\.)classifier(\.out_proj)?\.weight$")


@dataclass(frozen=True)
class _Candidate:
    """A class of transformers that may have exactly the weights of a checkpoint.

    Attributes:
        name: The name of the class.
        config: The configuration to load it with; None for that of the checkpoint.
    """

    name: str
    config: PreTrainedConfig | None


def load_checkpoint(checkpoint: str | os.PathLike[str], base_model: bool = False) -> PreTrainedModel:
    """Load a checkpoint in its own dtype, with a peft adapter merged into its base model.

    Args:
        checkpoint: A folder or a Hub id.
        base_model: Whether to load only the encoder, instead of the class that the configuration names.

    Raises:
        MissingLibraryError: If it is a peft adapter, and peft is not installed.
        ValueError: If the class cannot be converted, or if weights are missing or unused.
    """
    checkpoint = transformer_folder(checkpoint)
    if (adapter := find_adapter(checkpoint, weights=True)) is not None:
        merged: Any = _load_merged(adapter)
        return cast(PreTrainedModel, merged.base_model if base_model else merged)
    config = read_config(checkpoint)
    if isinstance(config, TaskAdapterConfig):
        adapted: Any = _load_all(checkpoint, modeling.TaskAdapter, False)
        return cast(PreTrainedModel, adapted.encoder if base_model else adapted)
    named = _named_class(config, checkpoint)
    if isinstance(config, SequenceEncoderConfig):
        name = "SequenceEncoderModel" if named is None or base_model else named
        model_class = getattr(modeling, name, None)
        if model_class is None:
            raise ValueError(f"{checkpoint} has the architecture {name!r}, which is not a model of this package.")
        return _load_all(checkpoint, model_class, base_model)
    return _load_first(checkpoint, _candidates(checkpoint, config, named, base_model), base_model)


def _named_class(config: PreTrainedConfig, checkpoint: str | os.PathLike[str]) -> str | None:
    """Return the name of the class that a configuration names, or None if it names none.

    Raises:
        ValueError: If it is not a name.
    """
    architectures: Any = config.architectures or [None]
    named = architectures[0] if isinstance(architectures, list) else architectures
    if not isinstance(named, str | None):
        raise ValueError(f"The configuration of {checkpoint} is not valid: architectures is {architectures!r}.")
    return named


def _candidates(
    checkpoint: str | os.PathLike[str], config: PreTrainedConfig, named: str | None, base_model: bool
) -> list[_Candidate]:
    """Return the classes to try, in order.

    Args:
        checkpoint: A folder or a Hub id.
        config: Its configuration.
        named: The class that the configuration names, or None.
        base_model: Whether to load only the encoder.

    Raises:
        ValueError: If the class or a field of the configuration is not supported.
    """
    prefix = type(config).__name__.removesuffix("Config")
    family, head = find_family(f"{prefix}Model" if base_model or named is None else named)
    renamed = _with_new_names(config, family, checkpoint)
    family.check(head, renamed)
    family.read(renamed)  # Rejects values with which transformers cannot build the model.
    if base_model:
        names = [f"{prefix}Model"]
    elif named is not None:
        # Pretraining checkpoints can have both heads, although their configurations name only ForMaskedLM. Embedding
        # models that were trained from them can have none, such as all-mpnet-base-v2.
        others = ("ForPreTraining", "Model") if head == "ForMaskedLM" else ()
        names = [named, *(named.removesuffix(head) + other for other in others if other in family.heads)]
    else:
        # Old checkpoints do not name their class. They come from pretraining.
        names = [prefix + head for head in ("Model", "ForPreTraining", "ForMaskedLM") if head in family.heads]
    candidates = [_Candidate(name, None if renamed is config else renamed) for name in names]
    if family.unstated and f"{prefix}ForMaskedLM" in names:
        stated = type(config).from_dict({**renamed.to_dict(), **family.unstated})
        candidates.append(_Candidate(f"{prefix}ForMaskedLM", stated))
    return candidates


def _load_first(
    checkpoint: str | os.PathLike[str], candidates: Sequence[_Candidate], base_model: bool
) -> PreTrainedModel:
    """Load a checkpoint with the first class that has exactly its weights.

    Raises:
        ValueError: If no class can load it, with the message of the first one.
    """
    errors = []
    for candidate in candidates:
        options = {} if candidate.config is None else {"config": candidate.config}
        try:
            model = _load_all(checkpoint, getattr(transformers, candidate.name), base_model, **options)
        except ValueError as error:
            errors.append(error)
            continue
        first = candidates[0].name
        if first.endswith("ForMaskedLM") and candidate.name.endswith("Model"):
            logger.warning(f"{checkpoint} names {first} but has no weights of its head; only its encoder is loaded.")
        return model
    raise errors[0]


def _load_merged(adapter: PeftAdapter) -> PreTrainedModel:
    """Load the base model of a peft adapter with the head of the adapter, and merge the adapter into it.

    Raises:
        ValueError: If a part of the head is neither in the base model nor in the adapter.
    """

    def load(base: str, replaced: dict[str, tuple[int, ...]]) -> PreTrainedModel:
        place, config = _read_base(adapter, base, replaced)
        named = _class_with_head(adapter, config, replaced)
        ours = isinstance(config, SequenceEncoderConfig)
        if not ours:
            find_family(named)
        model_class = getattr(modeling if ours else transformers, named)
        options: dict[str, Any] = {"dtype": "auto", "ignore_mismatched_sizes": True, "use_safetensors": True}
        with new_head():
            model, info = model_class.from_pretrained(place, config=config, output_loading_info=True, **options)
        absent = {*info["missing_keys"], *(key if isinstance(key, str) else key[0] for key in info["mismatched_keys"])}
        if not ours:
            absent -= find_family(named)[0].constants(model).keys()
        if absent := absent - set(replaced):
            raise ValueError(
                f"The peft adapter in {adapter.folder} cannot be merged: neither it nor its base model {base} has "
                f"{', '.join(sorted(absent))}. Save these with the adapter (modules_to_save)."
            )
        return cast(PreTrainedModel, model)

    return adapter.merged_into(load)


def _read_base(
    adapter: PeftAdapter, base: str, replaced: Mapping[str, tuple[int, ...]]
) -> tuple[str | os.PathLike[str], PreTrainedConfig]:
    """Return the folder of the base model of an adapter, and its configuration with the labels of the adapter."""
    try:
        place = transformer_folder(base)
        config = read_config(place)
    except (OSError, ValueError) as error:
        raise ValueError(f"The peft adapter in {adapter.folder} needs its base model {base}: {error}") from error
    labels = [shape[0] for name, shape in replaced.items() if _LAST_LAYER.search(name)]
    if labels and config.num_labels != labels[0]:
        config.num_labels = labels[0]
    if adapter.labels and len(adapter.labels) == config.num_labels:
        config.id2label = dict(enumerate(adapter.labels))
        config.label2id = {label: index for index, label in enumerate(adapter.labels)}
    return place, config


def _class_with_head(adapter: PeftAdapter, config: PreTrainedConfig, replaced: Iterable[str]) -> str:
    """Return the name of the class of the base model that has the head of an adapter."""
    prefix = type(config).__name__.removesuffix("Config")
    own = (config.architectures or ["Model"])[0]
    keeps_class = isinstance(config, SequenceEncoderConfig) and _fits_class(config, own, replaced)
    named: str = own if keeps_class else adapter.model_class or own
    return named if named.startswith(prefix) else prefix + named


def _fits_class(config: PreTrainedConfig, name: str, weights: Iterable[str]) -> bool:
    """Return whether an adapter is for the class of its base model, of which its task only names the default.

    Args:
        config: The configuration of the base model.
        name: The name of its class.
        weights: The names of the weights of the adapter. Those of the default class have other parts.
    """
    known = model_classes().get(name)
    if known is None or not known.by_architecture:
        return False
    with torch.device("meta"):
        parts = dict(getattr(modeling, name)(config).named_children())
    return all(weight.partition(".")[0] in parts for weight in weights)


def _with_new_names(config: PreTrainedConfig, family: Family, checkpoint: str | os.PathLike[str]) -> PreTrainedConfig:
    """Read the fields that a checkpoint has only under an old name."""
    if not any(hasattr(config, old) for old in family.renamed):
        return config
    given = config_fields(checkpoint)
    new = {name: given[old] for old, name in family.renamed.items() if given.get(old) is not None and name not in given}
    renamed = type(config).from_dict({**given, **new})
    renamed.name_or_path = config.name_or_path
    return renamed


def _load_all(
    checkpoint: str | os.PathLike[str], model_class: type[PreTrainedModel], base_model: bool, **options: Any
) -> PreTrainedModel:
    """Load a checkpoint as a model of a class, with all of the weights of both.

    Args:
        checkpoint: A folder or a Hub id.
        model_class: The class.
        base_model: Whether the checkpoint may have weights of a head that the class does not have.
        **options: Further options of `from_pretrained`.

    Raises:
        ValueError: If weights are missing, unused, damaged or of other shapes. The message names them.
    """
    model, info = _from_pretrained(checkpoint, model_class, **options)
    missing = set(info["missing_keys"])
    if not isinstance(model, modeling.SequenceEncoderPreTrainedModel | modeling.TaskAdapter):
        family, _ = find_family(model_class.__name__)
        missing -= family.constants(model).keys()
    left_over = set(info["unexpected_keys"])
    if "add_pooling_layer" not in options and _has_other_pooler(model_class, missing, left_over):
        return _load_all(checkpoint, model_class, base_model, **options, add_pooling_layer=not missing)
    if base_model:
        parts = {name.partition(".")[0] for name in model.state_dict()}
        left_over = {key for key in left_over if key.partition(".")[0] in parts | {model_class.base_model_prefix}}
    poolers = {key for key in left_over if key.startswith(f"{model_class.base_model_prefix}.pooler.")}
    if poolers and poolers == left_over and not model_class.__name__.endswith("Model"):
        # For example, roberta-base has a pooler that its masked language model does not use.
        logger.warning(f"{checkpoint} has a pooler that {model_class.__name__} does not use; the pooler is dropped.")
        left_over = set()
    faults = {
        "lacks": missing,
        "has weights that this model does not use (base_model=True or --base_model drops heads)": left_over,
        "has weights of other shapes": info["mismatched_keys"],
    }
    for fault, keys in faults.items():
        if keys:
            names = ", ".join(sorted(key if isinstance(key, str) else key[0] for key in keys))
            raise ValueError(f"{checkpoint} cannot be loaded as a {model_class.__name__}: it {fault}: {names}.")
    return model


def _from_pretrained(
    checkpoint: str | os.PathLike[str], model_class: type[PreTrainedModel], **options: Any
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Load a model, and return it with what transformers says about its weights.

    Raises:
        ValueError: If the weights are damaged, or the model cannot be built.
    """
    check_weight_maps(Path(checkpoint))
    # Weights of other shapes are not ignored: `_load_all` reports them by name.
    try:
        loaded: Any = model_class.from_pretrained(
            checkpoint,
            dtype="auto",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            use_safetensors=True,  # Other formats use pickle, which can run code.
            **options,
        )
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(
            f"The weights of {checkpoint} are damaged or incomplete ({error}); copy or download them again."
        ) from error
    except _CANNOT_BE_BUILT as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ValueError(
            f"transformers cannot build a {model_class.__name__} from the configuration of {checkpoint} ({reason}). "
            f"`sequence-encoder inspect {checkpoint}` names the fields that are not valid."
        ) from error
    return cast("tuple[PreTrainedModel, dict[str, Any]]", loaded)


def _has_other_pooler(model_class: type[PreTrainedModel], missing: Iterable[str], left_over: Iterable[str]) -> bool:
    """Return whether a checkpoint has a pooler and its class has none by default, or the other way round.

    Embedding models are often saved without their pooler.
    """
    if "add_pooling_layer" not in inspect.signature(model_class).parameters:
        return False
    if missing:
        return all(key.startswith("pooler.") for key in missing)
    return any(key.removeprefix(f"{model_class.base_model_prefix}.").startswith("pooler.") for key in left_over)
