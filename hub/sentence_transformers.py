"""Saving an encoder as a model of sentence-transformers: the encoder, how tokens are pooled, and what comes after."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from ..modeling import SequenceEncoderModel
from ..modeling.text_encoding.recipe_files import write_recipe
from ..saving.whole_folders import check_replaceable, written_whole


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
    """Saves an encoder so that `SentenceTransformer(folder)` gives the vectors of `model.encode`.

    That leaves the padding out as well. To load it, `import sequence_encoder` first, or pass `trust_remote_code=True`.

    Args:
        folder: to be written, as a whole or not at all.
        model: the encoder.
        tokenizer: that of the model.
        pooling: as of `encode`.
        normalize_embeddings: as of `encode`.
        max_length: as of `encode`.
        replace: whether `folder` may be replaced if it is that of a saved model.

    Raises:
        FileExistsError: if `folder` exists and may not be replaced.
        ValueError: for arguments that are not allowed.
    """
    if not isinstance(model, SequenceEncoderModel):
        raise ValueError(f"model must be a SequenceEncoderModel, got a {type(model).__name__}; pass its base_model.")
    recipe = model.recipe_for(pooling, normalize_embeddings)
    recipe = dataclasses.replace(recipe, max_length=model.longest_text(tokenizer, max_length))
    may_replace = (replace, "replace=True")
    check_replaceable(Path(folder), *may_replace)
    with written_whole(Path(folder), *may_replace) as written:
        model.save_pretrained(written)
        tokenizer.save_pretrained(written)
        write_recipe(written, recipe, model.config.hidden_size)
