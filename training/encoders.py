"""Loads the checkpoint that a training run starts from, and reads what the new model inherits from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..command_line import UsageError
from ..command_line.progress import Progress
from ..conversion.converting import convert
from ..conversion.sidecar_files import folder_of
from ..conversion.source import Source
from ..hub.card.inherited_fields import inherited_card_fields
from ..modeling import SequenceEncoderPreTrainedModel
from ..modeling.pooling import CONFIGURABLE_POOLINGS, check_pooling
from ..modeling.text_encoding.recipe_files import read_recipe


def save_as_sequence_encoder(checkpoint: str, folder: Path, base_model: bool) -> PreTrainedTokenizerBase:
    """Save a checkpoint as a SequenceEncoder in float32, converted if necessary, and return its tokenizer.

    Raises:
        UsageError: If the checkpoint cannot be converted.
    """
    try:
        source = Source(checkpoint)
        with Progress("Loading the encoder"):
            model = source.load_original(base_model)
        tokenizer = source.tokenizer_for(model)
    except (OSError, ValueError) as error:
        raise named_error(checkpoint, error) from error
    save_model(model, folder, checkpoint)
    return tokenizer


def save_model(model: PreTrainedModel, folder: Path, name: str) -> None:
    """Save a model, which errors call by its name, as a SequenceEncoder in float32, converted if necessary.

    Raises:
        UsageError: If it cannot be converted.
    """
    try:
        check_trainable(model.config)
        with Progress("Converting the encoder"):
            ours = model if isinstance(model, SequenceEncoderPreTrainedModel) else convert(model)
    except (OSError, ValueError) as error:
        raise named_error(name, error) from error
    ours.float().save_pretrained(folder)


def named_error(checkpoint: str, error: Exception) -> UsageError:
    """Return the error about a checkpoint, with its name in front unless the error names it."""
    return UsageError(error if checkpoint in str(error) else f"{checkpoint}: {error}")


def set_special_tokens(config: Any, **tokens: int | None) -> None:
    """Set the ids of special tokens in a configuration, except None. Many families lack them; writing needs them."""
    for name, token in tokens.items():
        if token is not None:
            setattr(config, f"{name}_token_id", token)


def check_trainable(config: PreTrainedConfig) -> None:
    """Check that a checkpoint is not quantized.

    Raises:
        ValueError: If it is.
    """
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError("a quantized model cannot be trained; pass the model that was quantized.")


def card_fields_of(checkpoint: str) -> dict[str, Any]:
    """Return the licence and the language of a checkpoint, if known, which models trained from it inherit."""
    try:
        return inherited_card_fields(folder_of(checkpoint))
    except (OSError, ValueError):
        return {}


def pooling_fields(checkpoint: str, asked: str | None) -> dict[str, Any]:
    """Return the pooling fields to set in the configuration of a checkpoint.

    The default is the pooling of a sentence-transformers folder, or else the one in the configuration.

    Raises:
        UsageError: If the folder names a pooling that heads do not support.
    """
    if asked is None and (recipe := read_recipe(checkpoint)) is not None:
        try:
            check_pooling(asked := recipe.single_pooling, CONFIGURABLE_POOLINGS)
        except ValueError as error:
            raise UsageError(f"--pooling is required for this checkpoint: {error}") from error
    # The pooler's dense layer was trained on the first token, so mean pooling drops it.
    return {} if asked is None else {"pooling": asked, **({"pooler_act": None} if asked == "mean" else {})}
