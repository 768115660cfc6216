"""Converts models of other families to ours and back. The outputs stay the same; the layout of the weights changes."""

from __future__ import annotations

import copy
import os
from dataclasses import fields
from typing import Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.utils import logging

from .. import modeling
from ..configuration import SequenceEncoderConfig
from ..modeling import SequenceEncoderForRetrieval, SequenceEncoderPreTrainedModel
from ..modeling.text_encoding.embedding_recipe import EmbeddingRecipe
from ..modeling.text_encoding.recipe_files import read_recipe, recipe_of
from .family import Family, their_class
from .flag_embedding import HEAD_FILES, with_heads
from .key_mapping import Heads, Rule, Tensors, to_ours, to_theirs
from .remote_code_checkpoints import REMOTE_CODE_FAMILIES, RemoteCodeCheckpoint, find_remote_code
from .source_models import FAMILIES, find_family, load_checkpoint

logger = logging.get_logger(__name__)

_OURS = "SequenceEncoder"
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
# Fields that a sentence-transformers cross-encoder adds to the configuration of any model.
_SHARED_FIELDS = ("sentence_transformers", "sbert_ce_default_activation_function")
# Fields that only matter for models with these heads. Initialisation and special tokens matter for none.
_WITH_POOLER = ("Model", "ForPreTraining", "ForSequenceClassification", "ForMultipleChoice")
_PREDICTING = ("ForMaskedLM", "ForPreTraining")
_CLASSIFYING = ("ForSequenceClassification", "ForMultipleChoice", "ForTokenClassification", "ForQuestionAnswering")
_ONLY_FOR = {
    "initializer": (),
    "cls_token_id": (),
    "sep_token_id": (),
    "mask_token_id": (),
    "pooling": _WITH_POOLER,
    "pooler_act": _WITH_POOLER,
    "pooler_placement": _WITH_POOLER,
    "pooler_dropout": _WITH_POOLER,
    "prediction_head": _PREDICTING,
    "prediction_head_size": _PREDICTING,
    "output_embedding_size": _PREDICTING,
    "decoder_bias": _PREDICTING,
    "classifier_head": _CLASSIFYING,
    "logit_calibration": ("ForSequenceClassification",),
    "head_act": (*_PREDICTING, *_CLASSIFYING),
    "head_bias": (*_PREDICTING, *_CLASSIFYING),
    "multi_vector_size": (),
    "unweighted_token_ids": (),
}


def convert(
    source: str | os.PathLike[str] | PreTrainedModel, to: str | None = None, base_model: bool = False
) -> PreTrainedModel:
    """Convert a model of another family to a SequenceEncoder with the same outputs, or convert one back.

    Only dropout can differ during training, because the families do not all apply it in the same places.

    If a folder or a repository has the heads of BGE-M3, `sparse_linear.pt` and `colbert_linear.pt`, the result is a
    `SequenceEncoderForRetrieval`. Other files with pickled weights are never read.

    Args:
        source: A folder, a Hub id, or a model, whose weights are copied. Without `to`, its family is BERT (or any model
            with BERT's architecture) or another one in the table of the guide. With `to`, it is a SequenceEncoder.
        to: The name of the family to convert a SequenceEncoder back to, such as `bert` or `modernbert`.
        base_model: Whether to convert only the encoder and drop the head.

    Returns:
        The converted model, with the head and the dtype of the source, in evaluation mode.

    Raises:
        ValueError: If the target has no equivalent of the family, the head or the configuration, or if weights are
            missing or unused. The message names the cause.
    """
    if to in REMOTE_CODE_FAMILIES and to not in FAMILIES:
        core = REMOTE_CODE_FAMILIES[to].core
        way_out = f" Pass to={core!r} for the class of transformers with the same architecture." if core else ""
        raise ValueError(f"to={to!r} is not supported, because the code of that family is only on the Hub.{way_out}")
    if to is not None and to not in FAMILIES:
        raise ValueError(f"to must be one of {', '.join(FAMILIES)}, got {to!r}.")
    if not isinstance(source, str | os.PathLike | PreTrainedModel):
        raise ValueError(
            f"source must be a folder, a Hub id or a transformers model, got a {type(source).__name__}. For a "
            "SentenceTransformer, pass its [0].auto_model; for a PeftModel, its merge_and_unload()."
        )
    if not isinstance(source, PreTrainedModel):
        if (found := find_remote_code(source)) is not None:
            loaded, recipe = convert_remote_code(found, base_model), read_recipe(found.place)
            converted = loaded if to is None else convert_and_release(loaded, to, base_model)
        else:
            loaded = load_checkpoint(source, base_model)
            recipe = recipe_of(loaded)
            converted = convert_and_release(loaded, to, base_model)
        converted = _with_recipe(converted, recipe)
        return converted if base_model else with_heads(converted, source)
    model = cast(PreTrainedModel, source.base_model) if base_model else source
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError(f"The weights of this {type(model).__name__} are on the meta device; load them into memory.")
    return _with_recipe(_convert(model, to, base_model, release=False), recipe_of(model))


def _with_recipe(model: PreTrainedModel, recipe: EmbeddingRecipe | None) -> PreTrainedModel:
    """Return the model with the embedding recipe of its source, which `encode` follows."""
    if isinstance(model, SequenceEncoderPreTrainedModel):
        cast(Any, model.base_model).embedding_recipe = recipe
    return model


def convert_and_release(model: PreTrainedModel, to: str | None = None, base_model: bool = False) -> PreTrainedModel:
    """Convert a model and release each of its weights once it is converted, so that no weight is in memory twice.

    Args:
        model: See `convert`. With `base_model`, this must be the encoder without its head.
        to: See `convert`.
        base_model: See `convert`.
    """
    return _convert(model, to, base_model, release=True)


def our_config(model: PreTrainedModel) -> SequenceEncoderConfig:
    """Return the configuration of a SequenceEncoder, or the equivalent one for a model of another family.

    Raises:
        ValueError: If there is no equivalent.
    """
    if isinstance(model, SequenceEncoderPreTrainedModel):
        return model.config
    family, head = find_family(type(model).__name__)
    config = read_config(family, head, model.config)
    if head == "Model" and getattr(model, "pooler", None) is None:
        config.pooler_act = None
    config.tie_word_embeddings &= _may_be_tied(model)
    return config


def _convert(model: PreTrainedModel, to: str | None, base_model: bool, release: bool) -> PreTrainedModel:
    if to is None:
        return _convert_to_ours(model, release)
    return _convert_to_theirs(model, FAMILIES[to], base_model, release)


def _convert_to_ours(model: PreTrainedModel, release: bool) -> PreTrainedModel:
    family, head = find_family(type(model).__name__)
    if any(".base_layer." in name for name in model.state_dict()):
        raise ValueError(
            f"This {type(model).__name__} has peft adapters, which cannot be converted. Merge them with "
            "merge_and_unload() of its PeftModel, or remove them with its unload()."
        )
    config, device, constants = our_config(model), model.device, family.constants(model)
    theirs = _tensors(model, release)
    for name, constant in constants.items():
        _check_constant(name, theirs.pop(name), constant)
    return _from_tensors(family, head, config, theirs, model.base_model_prefix, device)


def _from_tensors(
    family: Family,
    head: str,
    config: SequenceEncoderConfig,
    theirs: Tensors,
    base_model_prefix: str,
    device: torch.device,
) -> PreTrainedModel:
    model_class = getattr(modeling, _OURS + head)
    # A wrong size in the configuration must not allocate memory.
    with torch.device("meta"):
        needed = model_class(config).state_dict()
    rules = family.rules(head, config, base_model_prefix)
    tensors = to_ours(rules, theirs, needed, _heads(config))
    for name, tensor in tensors.items():
        if tensor.shape != needed[name].shape:
            raise ValueError(
                f"The weights do not fit the configuration: {name} of the new model would have the shape "
                f"{tuple(tensor.shape)}, and needs {tuple(needed[name].shape)}."
            )
    with no_init_weights():
        ours = model_class(config)
    return _filled(ours, tensors, device)


def convert_remote_code(found: RemoteCodeCheckpoint, base_model: bool = False) -> PreTrainedModel:
    """Convert a checkpoint whose code is on the Hub, without running that code.

    Its outputs cannot be compared with the outputs of the original. The conversion fails unless the model uses every
    weight, and every weight has the shape that the configuration states.

    Args:
        found: The checkpoint.
        base_model: Whether to convert only the encoder and drop the head.

    Returns:
        The converted model, in evaluation mode.

    Raises:
        ValueError: If the configuration has no equivalent, or if weights are missing, unused or of another shape.
    """
    # Before the weights are read.
    read_config(found.table, "Model" if base_model else found.named_head(), found.config)
    if unknown := found.unknown_fields:
        logger.warning(
            f"{found.place} has fields that the table of {found.family.name} does not contain: {', '.join(unknown)}. "
            "If they change the outputs, the converted model has other outputs than the original."
        )
    head, theirs = found.load(base_model)
    config, prefix = read_config(found.table, head, found.config), f"{found.family.base_model_prefix}."
    poolers = [name for name in theirs if name.removeprefix(prefix).startswith("pooler.")]
    if head == "Model" and not poolers:
        config.pooler_act = None
    if poolers and head not in _WITH_POOLER:
        logger.warning(f"{found.place} has a pooler that {found.architecture} does not use; the pooler is dropped.")
        theirs = {name: tensor for name, tensor in theirs.items() if name not in poolers}
    dtype = config.dtype or next((tensor.dtype for tensor in theirs.values()), torch.float32)
    theirs = {name: tensor.to(dtype) for name, tensor in theirs.items()}
    _check_tied(found.table.rules(head, config, found.family.base_model_prefix), theirs, config.tie_word_embeddings)
    try:
        model = _from_tensors(found.table, head, config, theirs, found.family.base_model_prefix, torch.device("cpu"))
    except RuntimeError as error:
        raise ValueError(f"The weights of {found.place} do not fit its configuration: {error}") from error
    model.config.dtype = dtype
    return model


def _check_tied(rules: list[Rule], theirs: Tensors, tied: bool) -> None:
    """Check that weights which the configuration ties are equal, as far as a checkpoint has both of them."""
    names = {rule.ours.removeprefix("model."): rule.theirs[0] for rule in rules}
    given, output = (names.get(name, "") for name in ("embed_tokens.weight", "decoder.weight"))
    if tied and given in theirs and output in theirs and not torch.equal(theirs[given], theirs[output]):
        raise ValueError(
            f"tie_word_embeddings=True is not supported for this checkpoint, because {output} differs from {given}. "
            "If the model uses both, set tie_word_embeddings to false in its config.json."
        )


def _convert_to_theirs(model: PreTrainedModel, family: Family, base_model: bool, release: bool) -> PreTrainedModel:
    if not isinstance(model, SequenceEncoderPreTrainedModel):
        raise ValueError(f"Only a SequenceEncoder can be converted to {family.name}, got a {type(model).__name__}.")
    head = type(model).__name__.removeprefix(_OURS)
    if isinstance(model, SequenceEncoderForRetrieval):
        if not base_model:
            raise ValueError(
                f"transformers has no class for {type(model).__name__}. `sequence-encoder convert` with --to writes "
                "its heads beside the encoder, as FlagEmbedding reads them; base_model=True converts only the encoder."
            )
        head = "Model"
    has_pooler = any("pooler." in name for name in model.state_dict())
    if base_model and obstacles_to(family, head, model.config, has_pooler):
        # Drop the pooler that this family does not have: there, it belongs to the head.
        has_pooler = False
    if obstacles := obstacles_to(family, head, model.config, has_pooler):
        fitting = [name for name, other in FAMILIES.items() if not obstacles_to(other, head, model.config, has_pooler)]
        way_out = f" It can be converted to {' or '.join(fitting)}." if fitting else ""
        raise ValueError(f"The model cannot be converted to {family.name}: {'; '.join(obstacles)}.{way_out}")
    config = write_config(family, head, model.config)
    config.tie_word_embeddings &= _may_be_tied(model)
    options = {"add_pooling_layer": has_pooler} if head == "Model" and family.has_pooler else {}
    with no_init_weights():
        theirs = their_class(family.model_prefixes[0] + head)(config, **options)
    rules = family.rules(head, model.config, theirs.base_model_prefix)
    device, heads = model.device, _heads(model.config)
    tensors = _tensors(model, release)
    if head == "Model" and not has_pooler:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("pooler.")}
    tensors = {name: tensor for name, tensor in tensors.items() if name.partition(".")[0] not in HEAD_FILES}
    constants = {name: constant.to(model.dtype) for name, constant in family.constants(theirs).items()}
    return _filled(theirs, to_theirs(rules, tensors, heads) | constants, device)


def _check_constant(name: str, tensor: torch.Tensor, constant: torch.Tensor) -> None:
    """Check that a tensor of a checkpoint has the values that a SequenceEncoder computes."""
    expected = constant.to(tensor)
    if not torch.allclose(tensor, expected, rtol=0, atol=4 * torch.finfo(tensor.dtype).eps):
        raise ValueError(f"{name} has other values than those that a SequenceEncoder computes; it was changed.")


def _heads(config: SequenceEncoderConfig) -> Heads:
    return Heads(config.num_attention_heads, config.key_value_heads)


def _tensors(model: PreTrainedModel, release: bool) -> dict[str, torch.Tensor]:
    """Return copies of a model's tensors by name; with `release`, the tensors themselves, removed from the model."""
    tensors = dict(model.state_dict())
    if not release:
        return {name: tensor.clone() for name, tensor in tensors.items()}
    cast(Any, model).to("meta")
    return tensors


def _may_be_tied(model: PreTrainedModel) -> bool:
    """Return whether the output embeddings equal the input embeddings, which a checkpoint may store separately.

    Some models have none, or name another layer so, although they use the input embeddings.
    """
    output, given = cast(Any, model.get_output_embeddings()), cast(Any, model.get_input_embeddings())
    other = output is None or output.weight.shape != given.weight.shape
    return other or torch.equal(output.weight, given.weight)


def _filled(model: PreTrainedModel, tensors: dict[str, torch.Tensor], device: torch.device) -> PreTrainedModel:
    try:
        model.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise ValueError(f"The weights do not fit the configuration: {error}") from error
    model.tie_weights()
    # Buffers are not in the weight tables. They were created on the CPU.
    return cast(Any, model).to(device).eval()


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
    theirs |= {name: getattr(config, ours) for ours, name in family.all_fields(head).items()}
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
        return ["its weights are quantized; convert the model from before quantization"]
    if head not in family.heads:
        return [f"{family.name} has no counterpart of {_OURS}{head}; it has {', '.join(family.heads)}"]
    if "type_vocab_size" in family.fields and not (config.type_vocab_size or family.types_optional):
        return [f"type_vocab_size=0 is not supported: {family.name} needs at least 1"]
    try:
        again = read_config(family, head, write_config(family, head, config))
    except (ValueError, StrictDataclassError) as error:
        return [str(error).rstrip(".")]
    obstacles = []
    no_pooler = head == "Model" and not has_pooler
    for name in (field.name for field in fields(config) if field.name in SequenceEncoderConfig.__annotations__):
        irrelevant = head not in _ONLY_FOR.get(name, (head,)) or (
            name in ("pooling", "pooler_act", "pooler_placement", "pooler_dropout") and no_pooler
        )
        irrelevant |= name == "sliding_window" and "sliding_attention" not in (config.layer_types or [])
        if irrelevant or getattr(config, name) == getattr(again, name):
            continue
        if name == "logit_calibration":
            obstacles.append(
                f"{name} is not supported: {family.name} has one temperature for all texts; calibrate the original "
                "model with --scaling temperature"
            )
        else:
            obstacles.append(
                f"{name}={getattr(config, name)!r} is not supported: {family.name} has {getattr(again, name)!r}"
            )
    return obstacles


def _shared_fields(config: PreTrainedConfig) -> dict[str, Any]:
    return {name: copy.deepcopy(getattr(config, name)) for name in _SHARED_FIELDS if hasattr(config, name)}
