"""Saving an encoder as a model of sentence-transformers: the encoder, how tokens are pooled, and what comes after."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..modeling import SequenceEncoderModel
from ..modeling.text_encoding import check_pooling
from .module_list import MODULE_LIST
from .whole_folders import check_replaceable, written_whole

_MODULE = "sentence_transformers.models."


def save_sentence_transformer(
    folder: str | os.PathLike[str],
    model: SequenceEncoderModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    pooling: str = "mean",
    normalize_embeddings: bool = False,
    max_length: int | None = None,
    replace: bool = False,
) -> None:
    """Saves an encoder so that `SentenceTransformer(folder)` gives the vectors of `model.encode`.

    That leaves the padding out as well. To load it, `import sequence_encoder` first, or pass `trust_remote_code=True`.

    Args:
        folder: to be written, as a whole or not at all.
        model: the encoder.
        tokenizer: that of the model.
        pooling: `mean` or `cls`.
        normalize_embeddings: whether vectors are scaled to the length 1.
        max_length: longer texts are cut to so many tokens; by default what tokenizer and model allow.
        replace: whether `folder` may be replaced if it is that of a saved model.

    Raises:
        FileExistsError: if `folder` exists and may not be replaced.
        ValueError: for arguments that are not allowed.
    """
    if not isinstance(model, SequenceEncoderModel):
        raise ValueError(f"model must be a SequenceEncoderModel, got a {type(model).__name__}; pass its base_model.")
    check_pooling(pooling)
    may_replace = (replace, "replace=True")
    check_replaceable(Path(folder), *may_replace)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), *([("2_Normalize", "Normalize")] * normalize_embeddings)]
    files: dict[str, Any] = {
        MODULE_LIST: [
            {"idx": index, "name": str(index), "path": path, "type": _MODULE + kind}
            for index, (path, kind) in enumerate(modules)
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": model.config.hidden_size,
            "pooling_mode_cls_token": pooling == "cls",
            "pooling_mode_mean_tokens": pooling == "mean",
        },
        "sentence_bert_config.json": {"max_seq_length": model.longest_text(tokenizer, max_length)},
    }
    with written_whole(Path(folder), *may_replace) as written:
        model.save_pretrained(written)
        tokenizer.save_pretrained(written)
        for name, content in files.items():
            (written / name).parent.mkdir(exist_ok=True)
            (written / name).write_text(json.dumps(content, indent=2), encoding="utf-8")
