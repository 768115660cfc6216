"""What a training starts from: a checkpoint that is carried over, or a new tokenizer and a new encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..command_line import UsageError
from ..conversion import convert
from ..conversion.companions import folder_of, load_tokenizer
from ..conversion.source_models import load_checkpoint, transformer_folder
from ..hub.passed_on import passed_on
from ..modeling import SequenceEncoderPreTrainedModel
from ..modeling.pooling import POOLINGS
from ..modeling.text_encoding.recipe_files import read_recipe
from ..modeling.text_encoding.text_pooling import check_pooling


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
    except (OSError, ValueError) as error:
        raise UsageError(f"--from {checkpoint}: {error}") from error
    ours.float().save_pretrained(folder)
    return tokenizer


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
