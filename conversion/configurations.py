"""Translates configurations between this package and other families, and names the fields that stand in the way."""

from __future__ import annotations

import copy
from dataclasses import fields
from typing import Any, cast

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from ..configuration import SequenceEncoderConfig
from ..saving.auto_classes import model_classes
from .family import Family, their_class

# Fields that every configuration has under the same name.
_COMMON = (
    "tie_word_embeddings",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "id2label",
    "label2id",
    "problem_type",
)
# Our fields that are None by default, and the properties with the value that this stands for.
_DEFAULTS = {
    "embedding_size": "embedding_dim",
    "num_hidden_groups": "num_distinct_layers",
    "output_embedding_size": "prediction_dim",
}
# Fields that a sentence-transformers cross-encoder adds to the configuration of any model.
_SHARED_FIELDS = ("sentence_transformers", "sbert_ce_default_activation_function")
# Fields that only matter for models with a pooler.
_OF_POOLERS = ("pooling", "pooler_act", "pooler_placement", "pooler_dropout")
# Fields that only matter for models of these classes. Initialisation and special tokens matter for none.
_ONLY_FOR: dict[str, tuple[str, ...]] = {
    "initializer": (),
    "cls_token_id": (),
    "sep_token_id": (),
    "mask_token_id": (),
    "prediction_head": ("VocabularyModel",),
    "prediction_head_size": ("VocabularyModel",),
    "output_embedding_size": ("VocabularyModel",),
    "decoder_bias": ("VocabularyModel",),
    "classifier_head": ("TaskModel",),
    "logit_calibration": ("SequenceEncoderForSequenceClassification",),
    "span_extraction": (),
    "zero_shot_classification": ("SequenceEncoderForZeroShotClassification",),
    "head_act": ("VocabularyModel", "TaskModel"),
    "head_bias": ("VocabularyModel", "TaskModel"),
    "multi_vector_size": (),
    "unweighted_token_ids": (),
}


def read_config(family: Family, head: str, config: PreTrainedConfig) -> SequenceEncoderConfig:
    """Translate their configuration into ours.

    Raises:
        ValueError: If it has a value that ours does not support.
    """
    special = family.head(head, config)
    family.check(head, config)
    ours: dict[str, Any] = {name: getattr(config, name) for name in _COMMON}
    ours |= {name: getattr(config, theirs) for name, theirs in family.all_fields(head).items()}
    ours |= {**family.settings, **family.read(config)}
    for name, only in special.settings.items():
        if ours.get(name, only) != only:
            raise ValueError(f"{name}={ours[name]!r} is not supported: {head} of {family.name} needs {only!r}.")
        ours[name] = only
    try:
        return SequenceEncoderConfig(**ours, **_shared_fields(config), dtype=config.dtype)
    except StrictDataclassError as error:
        raise ValueError(f"A SequenceEncoder does not support this {type(config).__name__}. {error}") from error


def write_config(family: Family, head: str, config: SequenceEncoderConfig) -> PreTrainedConfig:
    """Translate our configuration into theirs. `obstacles_to` checks that nothing is lost."""
    theirs: dict[str, Any] = {name: getattr(config, name) for name in _COMMON}
    theirs |= {name: getattr(config, _DEFAULTS.get(ours, ours)) for ours, name in family.all_fields(head).items()}
    theirs |= {**family.write(config), **_shared_fields(config), "dtype": config.dtype}
    # The two outputs for an answer are its start and its end. Some families also name the outputs of other heads.
    outputs = 2 if head == "ForQuestionAnswering" else family.head(head, config).required.get("num_labels")
    if outputs is not None:
        theirs |= {"id2label": None, "label2id": None, "num_labels": outputs}
    return cast(PreTrainedConfig, their_class(f"{family.model_prefixes[0]}Config")(**theirs))


def obstacles_to(family: Family, head: str, config: SequenceEncoderConfig, has_pooler: bool) -> list[str]:
    """List the reasons why a family cannot represent our model, each with the name of the field.

    The check translates our configuration into theirs and back. A field that changes on the way has no equivalent.

    Args:
        family: The family to convert to.
        head: The suffix of the class name, such as `ForMaskedLM`.
        config: Our configuration.
        has_pooler: Whether our model has a dense pooler.
    """
    if getattr(config, "quantization_config", None) is not None:
        return ["its weights are quantized; convert the original model"]
    if head not in family.heads:
        return [f"{family.name} has no counterpart of SequenceEncoder{head}; it has {', '.join(family.heads)}"]
    if "type_vocab_size" in family.fields and not (config.type_vocab_size or family.types_optional):
        return [f"type_vocab_size=0 is not supported: {family.name} needs at least 1"]
    try:
        again = read_config(family, head, write_config(family, head, config))
    except (ValueError, StrictDataclassError) as error:
        return [str(error).rstrip(".")]
    obstacles = []
    ours = model_classes()[f"SequenceEncoder{head}"]
    pools = ours.pools and (has_pooler or head != "Model")
    for name in (field.name for field in fields(config) if field.name in SequenceEncoderConfig.__annotations__):
        irrelevant = not {ours.name, *ours.bases} & {*_ONLY_FOR.get(name, (ours.name,))}
        irrelevant |= name in _OF_POOLERS and not pools
        irrelevant |= name == "sliding_window" and "sliding_attention" not in (config.layer_types or [])
        if irrelevant or getattr(config, name) == getattr(again, name):
            continue
        if name == "logit_calibration":
            obstacles.append(
                f"{name} is not supported: {family.name} has one temperature for all texts; calibrate the original "
                "model with --scaling temperature"
            )
        else:
            there = getattr(again, name)
            advice = f"; train the head with --pooling {there}" if name == "pooling" else ""
            obstacles.append(f"{name}={getattr(config, name)!r} is not supported: {family.name} has {there!r}{advice}")
    return obstacles


def _shared_fields(config: PreTrainedConfig) -> dict[str, Any]:
    return {name: copy.deepcopy(getattr(config, name)) for name in _SHARED_FIELDS if hasattr(config, name)}
