"""Loads the models of a server."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from ..bulk.models import kind_of, load_text_vectors, prepare, tokenizer_of
from ..command_line import UsageError
from ..conversion.loading import load_or_convert
from ..conversion.sidecar_files import folder_of
from ..data.vector_kinds import SPARSE, TOKEN
from ..export import ExportedEncoder
from ..export.exported_encoder import is_encoder
from ..export.exported_graph import is_classifier, load_exported_head
from ..inference.retrieval_vectors import retrieval_vectors
from ..modeling import SequenceEncoderForPreTraining, SequenceEncoderForRetrieval
from ..modeling.text_encoding.recipe_files import read_recipe
from ..saving.exported_models import is_exported
from .served_model import ServedModel


def load_served_model(source: str, dtype: str = "auto", device: str | None = None) -> ServedModel:
    """Load a model for a server.

    Args:
        source: A folder or a Hub id: of this package, of a family that `convert` supports, or exported; with
            `NAME=` before it to choose the name by which requests ask for it. Otherwise, the name is the Hub id or the
            name of the folder.
        dtype: "float32", "bfloat16", or "auto" for what `optimize_for_inference` chooses.
        device: A device of torch; by default a GPU if there is one.

    Raises:
        OSError: If there is no such model.
        UsageError: If the device cannot be used.
        ValueError: If the model cannot be loaded, or a server cannot use it.
    """
    try:
        torch.empty(0, device=device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        # torch appends a trace of C++ to some errors.
        raise UsageError(f"--device {device}: {str(error).splitlines()[0]}") from error
    # OpenMP keeps the threads of every thread that has computed, and once they outnumber the processors, its barriers
    # sleep instead of spinning, which doubles the time of a short text. So only the thread of the server may stay.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_load, source, dtype, device).result()


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


def _load(source: str, dtype: str, device: str | None) -> ServedModel:
    name, source = split_name(source)
    if is_exported(source):
        head, tokenizer = load_exported_head(source, **({} if device is None else {"device": device}))
        if is_classifier(head):
            return ServedModel(name, head, tokenizer)
        if not is_encoder(head):
            raise ValueError(
                f"A server cannot use an exported {type(head).__name__}; of exported models, it takes encoders and "
                "models for sequence classification. Serve the model that it was exported from, or use "
                "`exported_pipeline`."
            )
        return ServedModel(name, ExportedEncoder(head.exported, tokenizer, read_recipe(source)), tokenizer)
    place = torch.device(device or _best_device())
    if (kind := kind_of(source)) is not None:
        vectors, _ = load_text_vectors(kind, source, place, dtype)
        return ServedModel(name, vectors.model, vectors.tokenizer, vectors)
    model: Any = load_or_convert(source)
    if isinstance(model, SequenceEncoderForPreTraining):
        model = model.model
    tokenizer = tokenizer_of(source, model)
    prepare(model, place, dtype)
    if isinstance(model, SequenceEncoderForRetrieval):
        # Dense vectors are those of any encoder, with the options of a request.
        vectors = retrieval_vectors((SPARSE, TOKEN))(model, tokenizer, folder_of(source))
        return ServedModel(name, model, vectors.tokenizer, vectors)
    return ServedModel(name, model, tokenizer)


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
