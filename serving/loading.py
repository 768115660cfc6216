"""Loads the models of a server."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from ..command_line import UsageError
from ..conversion.source import Source
from ..data.vector_kinds import SPARSE, TOKEN
from ..inference.corpora.models import kind_of, load_text_vectors
from ..inference.device import choose_device, prepare
from ..inference.runtimes.exported_encoder import ExportedEncoder, is_encoder
from ..inference.runtimes.exported_extractor import ExportedExtractor
from ..inference.runtimes.exported_graph import is_classifier
from ..inference.runtimes.exported_heads import load_exported_head
from ..inference.vectors.retrieval_vectors import retrieval_vectors
from ..modeling import SequenceEncoderForPreTraining, SequenceEncoderForRetrieval
from ..modeling.text_encoding.recipe_files import read_recipe
from .served_model import ServedModel


def load_served_model(source: str, dtype: str = "auto", device: str | None = None) -> ServedModel:
    """Load a model for a server.

    Args:
        source: A folder or a Hub id: of this package, of a family that `convert` supports, or exported; with
            `NAME=` before it to choose the name by which requests ask for it. Otherwise, the name is the Hub id or the
            name of the folder.
        dtype: "float32", "bfloat16", or "auto" for what `optimize_for_inference` chooses.
        device: A device of torch; by default, that of `best_device`.

    Raises:
        OSError: If there is no such model.
        UsageError: If the device cannot be used.
        ValueError: If the model cannot be loaded, or a server cannot use it.
    """
    place = choose_device(device)
    # OpenMP keeps the threads of every thread that has computed, and once they outnumber the processors, its barriers
    # sleep instead of spinning, which doubles the time of a short text. So only the thread of the server may stay.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_load, source, dtype, place, device).result()


def split_name(source: str) -> tuple[str, str]:
    """Return the name and the place of a model, from `NAME=PLACE` or a place alone.

    Raises:
        UsageError: If one of them is missing.
    """
    # The path of a folder may contain "=".
    if os.path.exists(source):
        return Path(source).resolve().name, source
    name, given, place = source.partition("=")
    if not (name and (place or not given)):
        raise UsageError(f"A model must be a folder, a Hub id or NAME=MODEL, got {source!r}.")
    return name, place if given else source


def _load(named: str, dtype: str, place: torch.device, asked: str | None) -> ServedModel:
    name, where = split_name(named)
    source = Source(where)
    if source.is_exported:
        # Without a device, the runtime chooses.
        head, tokenizer = load_exported_head(where, **({} if asked is None else {"device": asked}))
        if is_classifier(head) or isinstance(head, ExportedExtractor):
            return ServedModel(name, head, tokenizer)
        if not is_encoder(head):
            raise ValueError(
                f"A server cannot use an exported {type(head).__name__}; of exported models, it takes encoders and "
                "models for sequence classification or span extraction. Serve the model that it was exported from, or "
                "use `exported_pipeline`."
            )
        return ServedModel(name, ExportedEncoder(head.exported, tokenizer, read_recipe(where)), tokenizer)
    if (kind := kind_of(source)) is not None:
        vectors, _ = load_text_vectors(kind, source, place, dtype)
        return ServedModel(name, vectors.model, vectors.tokenizer, vectors)
    model: Any = source.load()
    if isinstance(model, SequenceEncoderForPreTraining):
        model = model.model
    tokenizer = source.tokenizer_for(model)
    prepare(model, place, dtype)
    if isinstance(model, SequenceEncoderForRetrieval):
        # Dense vectors are those of any encoder, with the options of a request.
        vectors = retrieval_vectors((SPARSE, TOKEN))(model, tokenizer, source.folder)
        return ServedModel(name, model, vectors.tokenizer, vectors)
    return ServedModel(name, model, tokenizer)
