"""What a training starts from: a checkpoint that is carried over, or a new tokenizer and a new encoder."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ..conversion import convert
from ..conversion.companions import folder_of, load_tokenizer, read_tokenizer
from ..conversion.source_models import FAMILIES, load_checkpoint, read_config, transformer_folder
from ..hub.passed_on import passed_on
from ..modeling import SequenceEncoderForMaskedLM, SequenceEncoderForPreTraining, SequenceEncoderPreTrainedModel
from ..modeling.head_layers import POOLINGS
from ..modeling.recipe_files import read_recipe
from ..modeling.text_pooling import check_pooling
from ..tokenizer.tokenization_sequence_encoder import SequenceEncoderTokenizer
from . import UsageError
from .objective_arguments import Objectives
from .pretraining_arguments import ModelArguments
from .tasks import TASKS

# Documents to train a tokenizer on; more change little.
_TOKENIZER_TEXTS = 200_000
# Training takes the square of the length of a word: of a megabyte in base64, more than an hour.
_LONG_WORD = re.compile(r"\S{1000,}")


def carry_over(checkpoint: str, folder: Path, base_model: bool) -> PreTrainedTokenizerBase:
    """Saves a checkpoint as one of ours in `folder`, in float32, and returns its tokenizer.

    Args:
        checkpoint: a folder or a Hub id.
        folder: where it is saved.
        base_model: whether its head is left out.

    Raises:
        UsageError: if it is none that can be carried over.
    """
    try:
        beside = folder_of(checkpoint)
        encoder = transformer_folder(beside)
        model = load_checkpoint(checkpoint if encoder == beside else encoder, base_model=base_model)
        tokenizer = load_tokenizer(encoder, model)
        if tokenizer is None:
            raise ValueError("there is no tokenizer with it.")
        ours = model if isinstance(model, SequenceEncoderPreTrainedModel) else convert(model)
    except ValueError as error:
        raise UsageError(f"--from {checkpoint}: {error}") from error
    ours.float().save_pretrained(folder)
    return tokenizer


def encoder_of(checkpoint: str, folder: Path, any_family: bool, may_write: bool) -> tuple[str, PreTrainedTokenizerBase]:
    """A checkpoint with the encoder, and its tokenizer: the one that was asked for if it is ours, else carried over.

    Args:
        checkpoint: a folder or a Hub id.
        folder: where an encoder is saved that is carried over.
        any_family: whether one that cannot be carried over may stay as it is.
        may_write: whether this process carries it over, or finds it done.

    Raises:
        UsageError: if there is no such encoder, or no tokenizer with it.
    """
    try:
        beside = folder_of(checkpoint)
        encoder = transformer_folder(beside)
        named = str(checkpoint if encoder == beside else encoder)
        config = read_config(named)
        if config.model_type != SequenceEncoderConfig.model_type:
            try:
                if may_write:
                    carry_over(checkpoint, folder, base_model=True).save_pretrained(folder)
                named = str(folder)
            except UsageError as error:
                if not any_family:
                    raise _pointing_to_adapter(error, config) from error
        tokenizer = read_tokenizer(named)
        # Encoders that read from left to right come without a padding token, and the mask hides any token as well.
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        if tokenizer.pad_token is None:
            raise ValueError("its tokenizer has neither a padding token nor one for the end of a text.")
        return named, tokenizer
    except (OSError, ValueError) as error:
        raise error if isinstance(error, UsageError) else UsageError(f"--from {checkpoint}: {error}") from error


def card_fields_of(checkpoint: str) -> dict[str, Any]:
    """The licence and the language of a checkpoint, as far as they are known. They hold for what is trained from it."""
    try:
        return passed_on(folder_of(checkpoint))
    except (OSError, ValueError):
        return {}


def pooling_fields(checkpoint: str, asked: str | None) -> dict[str, Any]:
    """The fields of the configuration that say how a text becomes one vector, where they differ from the checkpoint's.

    Args:
        checkpoint: of an encoder.
        asked: the pooling that was asked for; None for that of a folder of sentence-transformers, or else of the
            configuration.

    Raises:
        UsageError: if the folder names a pooling that heads do not have.
    """
    if asked is None and (recipe := read_recipe(checkpoint)) is not None:
        try:
            check_pooling(asked := recipe.single_pooling, tuple(POOLINGS))
        except ValueError as error:
            raise UsageError(f"--pooling is needed: {error}") from error
    # The dense layer of a pooler has learned from the first token.
    return {} if asked is None else {"pooling": asked, **({"pooler_act": None} if asked == "mean" else {})}


def _pointing_to_adapter(error: UsageError, config: PreTrainedConfig) -> UsageError:
    """The error, with what the user can do where nothing but the family stands in the way."""
    if config.is_encoder_decoder or config.model_type in FAMILIES:
        return error
    tasks = ", ".join(name for name, task in TASKS.items() if "adapter" in task.tunings)
    return UsageError(f"{error} --tuning adapter takes an encoder of any family, for --task {tasks}.")


def make_tokenizer(arguments: ModelArguments, texts: Iterable[str]) -> PreTrainedTokenizerBase:
    """The tokenizer that is asked for, or one that is trained on the first of the texts.

    Raises:
        UsageError: if it cannot be loaded or trained, or has no [CLS], [SEP], [PAD] or [MASK].
    """
    try:
        if arguments.tokenizer is None:
            print(f"Training a tokenizer of at most {arguments.vocab_size:,} tokens.", flush=True)
            return SequenceEncoderTokenizer.train_from_iterator(
                (_LONG_WORD.sub(" ", text) for text, _ in zip(texts, range(_TOKENIZER_TEXTS), strict=False)),
                vocab_size=arguments.vocab_size,
                algorithm=arguments.algorithm,
                lowercase=arguments.lowercase,
                model_max_length=arguments.max_length,
                # Five bars, which are also drawn where there is no terminal.
                show_progress=False,
            )
        tokenizer = read_tokenizer(arguments.tokenizer)
    except UsageError:
        raise
    except (ValueError, OSError) as error:
        name = "--vocab_size, --corpus" if arguments.tokenizer is None else f"--tokenizer {arguments.tokenizer}"
        raise UsageError(f"{name}: {error}") from error
    tokenizer.model_max_length = arguments.max_length
    return tokenizer


def new_model(
    arguments: ModelArguments, objectives: Objectives, tokenizer: PreTrainedTokenizerBase
) -> SequenceEncoderPreTrainedModel:
    """An encoder with random weights and the heads that the objectives need."""
    fields: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "type_vocab_size": 2 if objectives.sop_weight else 0,
        "max_position_embeddings": arguments.max_length,
        **{f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "cls", "sep", "mask")},
        **arguments.config_fields(),
    }
    return model_class(objectives)(SequenceEncoderConfig.from_preset(arguments.preset, **fields))


def carried_over_model(folder: Path, arguments: ModelArguments, objectives: Objectives) -> PreTrainedModel:
    """The model that `carry_over` saved, with the heads that the objectives need.

    Raises:
        UsageError: if it takes no texts as long as asked for.
    """
    model = model_class(objectives).from_pretrained(folder)
    limit = model.config.max_position_embeddings
    if model.config.position_embedding == "learned" and arguments.max_length > limit:
        raise UsageError(
            f"--max_length must be at most {limit}, what --from has positions for, got {arguments.max_length}."
        )
    return model


def model_class(objectives: Objectives) -> type[SequenceEncoderPreTrainedModel]:
    """The class with the heads that the objectives need."""
    return SequenceEncoderForPreTraining if objectives.sop_weight else SequenceEncoderForMaskedLM
