"""Saves an encoder as a sentence-transformers model: the encoder, its pooling and its normalisation."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from ..modeling import SequenceEncoderModel
from ..modeling.text_encoding.recipe_files import write_recipe
from ..saving.whole_folders import atomic_folder, check_replaceable


def save_sentence_transformer(
    folder: str | os.PathLike[str],
    model: SequenceEncoderModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    pooling: str | None = None,
    normalize_embeddings: bool | None = None,
    max_length: int | None = None,
    replace: bool = False,
) -> None:
    """Save an encoder so that `SentenceTransformer(folder)` returns the embeddings of `model.encode`.

    The loaded model is padding-free, too. To load it, `import sequence_encoder` first or pass `trust_remote_code=True`.

    Args:
        folder: The folder to write. It is complete or absent, even if saving fails.
        model: The encoder.
        tokenizer: The tokenizer of the model.
        pooling: See `encode`.
        normalize_embeddings: See `encode`.
        max_length: See `encode`.
        replace: Whether to replace `folder` if it contains a saved model.

    Raises:
        FileExistsError: If `folder` exists and must not be replaced.
        ValueError: If an argument is not allowed.
    """
    if not isinstance(model, SequenceEncoderModel):
        raise ValueError(f"model must be a SequenceEncoderModel, got a {type(model).__name__}; pass its base_model.")
    recipe = model.recipe_for(pooling, normalize_embeddings)
    recipe = dataclasses.replace(recipe, max_length=model.longest_text(tokenizer, max_length))
    may_replace = (replace, "replace=True")
    check_replaceable(Path(folder), *may_replace)
    with atomic_folder(Path(folder), *may_replace) as written:
        model.save_pretrained(written)
        tokenizer.save_pretrained(written)
        write_recipe(written, recipe, model.config.hidden_size)
