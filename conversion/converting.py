"""Converts models of other families to ours and back. The outputs stay the same; the layout of the weights changes."""

from __future__ import annotations

import copy
import os
from typing import Any, cast

import torch
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.utils import logging

from .. import modeling
from ..configuration import SequenceEncoderConfig
from ..modeling import (
    SequenceEncoderForRetrieval,
    SequenceEncoderForSequenceClassification,
    SequenceEncoderModel,
    SequenceEncoderPreTrainedModel,
    TaskAdapter,
)
from ..modeling.given_weights import fill
from ..modeling.text_encoding.embedding_recipe import EmbeddingRecipe
from ..modeling.text_encoding.recipe_files import read_recipe, recipe_of
from .configurations import obstacles_to, read_config, write_config
from .family import Family, their_class
from .formats.checkpoints import load_checkpoint
from .formats.flag_embedding import HEAD_FILES, with_heads
from .formats.package_checkpoints import PackageCheckpoint
from .formats.remote_code_checkpoints import REMOTE_CODE_FAMILIES, RemoteCodeCheckpoint, find_remote_code
from .key_mapping import Heads, Rule, Tensors, to_ours, to_theirs
from .peft_adapters import check_merged
from .source_models import FAMILIES, find_family, is_adapted

logger = logging.get_logger(__name__)


def convert(
    source: str | os.PathLike[str] | PreTrainedModel, to: str | None = None, base_model: bool = False
) -> PreTrainedModel:
    """Convert a model of another family to a SequenceEncoder with the same outputs, or convert one back.

    Only dropout can differ during training, because the families do not all apply it in the same places.

    A `TaskAdapter` becomes a classifier, and a peft adapter in a folder or a repository is merged into its base model.

    If a folder or a repository has the heads of BGE-M3, `sparse_linear.pt` and `colbert_linear.pt`, the result is a
    `SequenceEncoderForRetrieval`, and a folder of GLiNER becomes a `SequenceEncoderForSpanExtraction`, also from a
    `pytorch_model.bin`. Other files with pickled weights are never read.

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
            recipe = found.recipe() if isinstance(found, PackageCheckpoint) else read_recipe(found.place)
            loaded = convert_remote_code(found, base_model)
            converted = loaded if to is None else convert_and_release(loaded, to, base_model)
        else:
            loaded = load_checkpoint(source, base_model)
            if to is None and isinstance(loaded, SequenceEncoderPreTrainedModel) and is_adapted(source):
                return loaded
            return convert_loaded(loaded, source, to, base_model)
        converted = _with_recipe(converted, recipe)
        return converted if base_model else with_heads(converted, source)
    model = cast(PreTrainedModel, source.base_model) if base_model else source
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError(f"The weights of this {type(model).__name__} are on the meta device; load them into memory.")
    return _with_recipe(_convert(model, to, base_model, release=False), recipe_of(model))


def convert_loaded(
    model: PreTrainedModel, source: str | os.PathLike[str], to: str | None = None, base_model: bool = False
) -> PreTrainedModel:
    """Convert the model that `load_checkpoint` has loaded, and release its weights. See `convert`."""
    converted = _with_recipe(convert_and_release(model, to, base_model), recipe_of(model))
    return converted if base_model else with_heads(converted, source)


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
    if isinstance(model, TaskAdapter):
        return our_config(model.encoder)
    family, head = find_family(type(model).__name__)
    config = read_config(family, head, model.config)
    if head == "Model" and getattr(model, "pooler", None) is None:
        config.pooler_act = None
    config.tie_word_embeddings &= _may_be_tied(model)
    return config


def _convert(model: PreTrainedModel, to: str | None, base_model: bool, release: bool) -> PreTrainedModel:
    if isinstance(model, TaskAdapter):
        model = _classifier_of(model if release else copy.deepcopy(model))
        release = True
        if to is None:
            return model
    if to is None:
        return _convert_to_ours(model, release)
    return _convert_to_theirs(model, FAMILIES[to], base_model, release)


def _classifier_of(adapter: TaskAdapter) -> PreTrainedModel:
    """Return the classifier that computes what a `TaskAdapter` computes, and takes its weights."""
    encoder = adapter.encoder
    try:
        if not isinstance(encoder, SequenceEncoderModel):
            encoder = cast(SequenceEncoderModel, _convert_to_ours(encoder, release=True))
        return classifier_of(adapter, encoder)
    except ValueError as error:
        raise ValueError(
            f"This TaskAdapter cannot be converted with its encoder: {error} It works as it is in Python, with "
            "TaskAdapter.from_pretrained and pipeline('text-classification')."
        ) from error


def classifier_of(adapter: TaskAdapter, encoder: SequenceEncoderModel) -> SequenceEncoderForSequenceClassification:
    """Return a classifier with the weights of a `TaskAdapter`, which are not copied.

    In training, the encoder of the classifier is not frozen, and its dropout is that of its configuration.

    Args:
        adapter: The `TaskAdapter`.
        encoder: Its encoder, converted if necessary.
    """
    config: Any = copy.deepcopy(encoder.config)
    # The adapter pools the vectors of the last layer, without the pooler that the encoder may have.
    config.pooling, config.pooler_act, config.classifier_head = adapter.config.pooling, None, "linear"
    config.id2label, config.label2id = adapter.config.id2label, adapter.config.label2id
    config.problem_type, config.logit_calibration = adapter.config.problem_type, None
    with no_init_weights():
        classifier = SequenceEncoderForSequenceClassification(config)
    tensors = {f"model.{name}": tensor for name, tensor in encoder.state_dict().items()}
    for name, tensor in adapter.classifier.state_dict().items():
        tensors[f"classifier.{name}"] = tensor.to(encoder.device, encoder.dtype)
    return fill(classifier, {name: tensors[name] for name in classifier.state_dict()})


def _convert_to_ours(model: PreTrainedModel, release: bool) -> PreTrainedModel:
    family, head = find_family(type(model).__name__)
    check_merged(model)
    config = our_config(model)
    constants = check_constants(model)
    theirs = _tensors(model, release)
    for name in constants:
        del theirs[name]
    return _from_tensors(family, head, config, theirs, model.base_model_prefix)


def _class_of(head: str) -> Any:
    return getattr(modeling, f"SequenceEncoder{head}")


def _from_tensors(
    family: Family,
    head: str,
    config: SequenceEncoderConfig,
    theirs: Tensors,
    base_model_prefix: str,
) -> PreTrainedModel:
    model_class = _class_of(head)
    # A wrong size in the configuration must not allocate memory.
    with torch.device("meta"):
        needed = model_class(config).state_dict()
    rules = family.rules(head, config, base_model_prefix)
    tensors = to_ours(rules, theirs, needed, table_heads(config))
    for name, tensor in tensors.items():
        if tensor.shape != needed[name].shape:
            raise ValueError(
                f"The weights do not fit the configuration: {name} of the new model would have the shape "
                f"{tuple(tensor.shape)}, and needs {tuple(needed[name].shape)}."
            )
    with no_init_weights():
        ours = model_class(config)
    return _filled(ours, tensors)


def convert_remote_code(found: RemoteCodeCheckpoint | PackageCheckpoint, base_model: bool = False) -> PreTrainedModel:
    """Convert a checkpoint whose code is on the Hub or in another package, without running that code.

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
    if isinstance(found, PackageCheckpoint):
        return found.convert(base_model)
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
    if poolers and not _class_of(head)._pools:
        logger.warning(f"{found.place} has a pooler that {found.architecture} does not use; the pooler is dropped.")
        theirs = {name: tensor for name, tensor in theirs.items() if name not in poolers}
    dtype = config.dtype or next((tensor.dtype for tensor in theirs.values()), torch.float32)
    theirs = {name: tensor.to(dtype) for name, tensor in theirs.items()}
    _check_tied(found.table.rules(head, config, found.family.base_model_prefix), theirs, config.tie_word_embeddings)
    try:
        model = _from_tensors(found.table, head, config, theirs, found.family.base_model_prefix)
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
    head = type(model).__name__.removeprefix("SequenceEncoder")
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
        if not model.config.num_hidden_layers:
            way_out = " Use its folder with model2vec or sentence-transformers as it is." if head == "Model" else ""
            raise ValueError(f"The model cannot be converted to {family.name}: it has no layers.{way_out}")
        fitting = [name for name, other in FAMILIES.items() if not obstacles_to(other, head, model.config, has_pooler)]
        way_out = f" It can be converted to {' or '.join(fitting)}." if fitting else ""
        if not (fitting or base_model or obstacles_to(family, "Model", model.config, False)):
            way_out = " base_model=True or --base_model converts its encoder alone."
        raise ValueError(f"The model cannot be converted to {family.name}: {'; '.join(obstacles)}.{way_out}")
    config = write_config(family, head, model.config)
    config.tie_word_embeddings &= _may_be_tied(model)
    options = {"add_pooling_layer": has_pooler} if head == "Model" and family.has_pooler else {}
    with no_init_weights():
        theirs = their_class(family.model_prefixes[0] + head)(config, **options)
    rules = family.rules(head, model.config, theirs.base_model_prefix)
    heads = table_heads(model.config)
    tensors = _tensors(model, release)
    if head == "Model" and not has_pooler:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("pooler.")}
    tensors = {name: tensor for name, tensor in tensors.items() if name.partition(".")[0] not in HEAD_FILES}
    constants = {name: constant.to(model.dtype) for name, constant in family.constants(theirs).items()}
    return _filled(theirs, to_theirs(rules, tensors, heads) | constants)


def check_constants(model: PreTrainedModel) -> list[str]:
    """Return the names of the tensors of a model that its configuration determines.

    Raises:
        ValueError: If one of them has other values than those that a SequenceEncoder computes.
    """
    constants = find_family(type(model).__name__)[0].constants(model)
    tensors = model.state_dict() if constants else {}
    for name, constant in constants.items():
        tensor = tensors[name]
        if not torch.allclose(tensor, constant.to(tensor), rtol=0, atol=4 * torch.finfo(tensor.dtype).eps):
            raise ValueError(f"{name} has other values than those that a SequenceEncoder computes; it was changed.")
    return list(constants)


def table_heads(config: SequenceEncoderConfig) -> Heads:
    """Return the numbers of heads that the tables of weights need."""
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


def _filled(model: PreTrainedModel, tensors: dict[str, torch.Tensor]) -> PreTrainedModel:
    try:
        return fill(model, tensors)
    except RuntimeError as error:
        raise ValueError(f"The weights do not fit the configuration: {error}") from error
