"""Finds out what a model of another family is, and loads checkpoints with nothing missing and nothing left over."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from .. import modeling
from ..configuration import SequenceEncoderConfig
from ..saving.loading import check_config_file, check_weight_maps
from ..saving.module_list import module_paths
from .bert import BERT
from .distilbert import DISTILBERT
from .electra import ELECTRA
from .family import Family
from .modernbert import MODERNBERT
from .roberta import ROBERTA
from .source_files import check_source

logger = logging.get_logger(__name__)

FAMILIES: dict[str, Family] = {family.name: family for family in (BERT, ROBERTA, DISTILBERT, ELECTRA, MODERNBERT)}


def find_family(class_name: str) -> tuple[Family, str]:
    """The family of a model class of transformers, and which of its heads the class is.

    Raises:
        ValueError: if the family is none of ours, or the head.
    """
    for family in FAMILIES.values():
        for prefix in family.model_prefixes:
            head = class_name.removeprefix(prefix)
            # Others only begin with the same word, such as RobertaPreLayerNorm.
            if head == class_name or not head.startswith(("Model", "For", "LMHead")):
                continue
            if head not in family.heads:
                names = ", ".join(prefix + name for name in family.heads)
                raise ValueError(
                    f"{class_name} cannot be converted; the models of its family that can are {names}. "
                    "base_model=True or --base-model converts its encoder alone."
                )
            return family, head
    if class_name.startswith("SequenceEncoder"):
        raise ValueError(
            f"{class_name} is a model of this package already. To convert it back, name a family with to= or "
            f"--to: {', '.join(FAMILIES)}."
        )
    raise ValueError(f"{class_name} cannot be converted; the families that can are {', '.join(FAMILIES)}.")


def load_checkpoint(checkpoint: str | os.PathLike[str], base_model: bool = False) -> PreTrainedModel:
    """Loads a folder or a Hub id with the class that it names, or the one without a head, in its own dtype.

    Raises:
        ValueError: if that class is none that can be converted, needs weights that are not there, or leaves some over.
    """
    checkpoint = transformer_folder(checkpoint)
    config = read_config(checkpoint)
    architectures: Any = config.architectures or [None]
    named = architectures[0] if isinstance(architectures, list) else architectures
    if not isinstance(named, str | None):
        raise ValueError(f"The configuration of {checkpoint} is not valid: architectures is {architectures!r}.")
    if isinstance(config, SequenceEncoderConfig):
        if named is None or base_model:
            named = "SequenceEncoderModel"
        model_class = getattr(modeling, named, None)
        if model_class is None:
            raise ValueError(f"{checkpoint} names the architecture {named!r}, which is no model of this package.")
        return _load_all(checkpoint, model_class, base_model)
    prefix = type(config).__name__.removesuffix("Config")
    if base_model:
        find_family(f"{prefix}Model")
        names = [f"{prefix}Model"]
    elif named is not None:
        find_family(named)
        # What BERT's pretraining left has both of its heads, and often calls itself a masked language model.
        names = [named, *(["BertForPreTraining"] if named == "BertForMaskedLM" else [])]
    else:
        # Old checkpoints do not say what they are, and were left by pretraining.
        family, _ = find_family(f"{prefix}Model")
        names = [prefix + head for head in ("Model", "ForPreTraining", "ForMaskedLM") if head in family.heads]
    errors = []
    for name in names:
        try:
            return _load_all(checkpoint, getattr(transformers, name), base_model)
        except ValueError as error:
            errors.append(error)
    raise errors[0]


def read_config(checkpoint: str | os.PathLike[str]) -> PreTrainedConfig:
    """Reads the configuration of a folder or a Hub id.

    Raises:
        OSError: if there is none, or it cannot be read.
        ValueError: if it is not valid.
    """
    if Path(checkpoint).is_dir() and not Path(checkpoint, "config.json").is_file():
        raise FileNotFoundError(f"{checkpoint} is not a saved model: it has no config.json.")
    check_config_file(Path(checkpoint))
    try:
        return AutoConfig.from_pretrained(checkpoint)
    except (OSError, ValueError):
        raise
    except (StrictDataclassError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"The configuration of {checkpoint} is not valid: {error}") from error


def transformer_folder(checkpoint: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """The folder of the encoder in one of sentence-transformers, which in older ones is a folder of its own.

    Raises:
        ValueError: if the checkpoint is a file, its list of modules is damaged, or it has files that lie elsewhere.
        FileNotFoundError: if it can be no Hub id, and there is no such folder.
    """
    name = os.fspath(checkpoint)
    if not name:
        raise ValueError("A checkpoint is a folder or a Hub id, got nothing.")
    if os.path.isfile(name):
        raise ValueError(f"A checkpoint is a folder or a Hub id, but {name} is a file.")
    if not os.path.isdir(name):
        if os.path.isabs(name) or name.startswith((".", "~")) or name.count("/") > 1:
            raise FileNotFoundError(f"There is no folder {name}.")
        return checkpoint
    check_source(Path(name))
    if os.path.isfile(os.path.join(name, "config.json")):
        return checkpoint
    modules = module_paths(Path(name))
    return os.path.join(name, modules[0]) if modules else checkpoint


def _load_all(
    checkpoint: str | os.PathLike[str], model_class: type[PreTrainedModel], base_model: bool, **options: Any
) -> PreTrainedModel:
    check_weight_maps(Path(checkpoint))
    # Other shapes are not ignored but told of below, by name.
    try:
        loaded: Any = model_class.from_pretrained(
            checkpoint,
            dtype="auto",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            use_safetensors=True,  # Others are pickled, and can hold programs.
            **options,
        )
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(
            f"The weights of {checkpoint} are damaged or incomplete ({error}); copy or download them again."
        ) from error
    model, info = loaded
    missing = info["missing_keys"]
    if missing and not options and all(key.startswith("pooler.") for key in missing):
        # Saved without its pooler, as models for embeddings often are.
        return _load_all(checkpoint, model_class, base_model, add_pooling_layer=False)
    left_over = set(info["unexpected_keys"])
    if base_model:
        parts = {name.partition(".")[0] for name in model.state_dict()}
        left_over = {key for key in left_over if key.partition(".")[0] in parts | {model_class.base_model_prefix}}
    poolers = {key for key in left_over if key.startswith(f"{model_class.base_model_prefix}.pooler.")}
    if poolers and poolers == left_over and not model_class.__name__.endswith("Model"):
        # As roberta-base has one, which its model of masked tokens does not compute.
        logger.warning(f"{checkpoint} has a pooler that a {model_class.__name__} does not use; it is left out.")
        left_over = set()
    faults = {
        "has no": missing,
        "has weights that this model has no place for (base_model=True, or --base-model, leaves heads out)": left_over,
        "has other shapes of": info["mismatched_keys"],
    }
    for fault, keys in faults.items():
        if keys:
            names = ", ".join(sorted(key if isinstance(key, str) else key[0] for key in keys))
            raise ValueError(f"{checkpoint}, as a {model_class.__name__}, {fault}: {names}.")
    return model
