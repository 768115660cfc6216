"""Loads the model of a run, and prepares it for its device."""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..command_line import UsageError
from ..conversion.loading import load_or_convert
from ..conversion.sidecar_files import folder_of, load_tokenizer
from ..conversion.source_models import transformer_folder
from ..data.vector_kinds import DENSE
from ..export import ExportedEncoder
from ..export.exported_graph import ExportedHead, is_classifier, load_exported_head
from ..inference import optimize_for_inference
from ..inference.retrieval_vectors import retrieval_vectors
from ..inference.text_vectors import TextVectors
from ..inference.uses import use_of
from ..inference.vector_kinds import text_vectors_of
from ..modeling import SequenceEncoderForSequenceClassification, SequenceEncoderPreTrainedModel
from ..saving.exported_models import is_exported
from .processes import local_rank

_BLOCK = 2**22


def choose_device(asked: str | None) -> torch.device:
    """Return the device to compute on.

    Args:
        asked: The device that the user asked for; by default, the GPU of this process, or the CPU without GPUs.

    Raises:
        UsageError: If there is no such device.
    """
    if asked is None:
        asked = f"cuda:{local_rank() % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"--device {asked}: {str(error).partition(chr(10))[0]}") from error
    return device


def load_encoder(
    name: str, device: str | None, dtype: str, trust_remote_code: bool = False
) -> tuple[Any, PreTrainedTokenizerBase, str]:
    """Load an encoder of this package or of a family that `convert` supports, or an exported one.

    Args:
        name: A folder or a Hub id.
        device: The device to compute on; by default that of `choose_device`, or of the runtime if it is exported.
        dtype: `--dtype`.
        trust_remote_code: Whether to load a torch program, which can run any code.

    Returns:
        The encoder, its tokenizer, and a sentence that says how it computes.

    Raises:
        UsageError: If it has no tokenizer, or cannot compute on that device or in that dtype.
        ValueError: If it cannot be converted, or is a torch program and not trusted.
    """
    if is_exported(name):
        options, sentence = _for_exported(name, device, dtype, trust_remote_code)
        exported = ExportedEncoder.from_pretrained(name, **options)
        return exported, exported.tokenizer, sentence
    place = choose_device(device)
    folder_of(name)  # Its error names the model.
    model = load_or_convert(name, base_model=True)
    return model, tokenizer_of(name, model), prepare(model, place, dtype)


def load_classifier(
    name: str, device: str | None, dtype: str, trust_remote_code: bool = False
) -> tuple[SequenceEncoderForSequenceClassification | ExportedHead, PreTrainedTokenizerBase, str]:
    """Load a model with a head for sequence classification, as `load_encoder`.

    Raises:
        UsageError: If it has no such head or no tokenizer, or cannot compute on that device or in that dtype.
        ValueError: If it cannot be converted, or is a torch program and not trusted.
    """
    if is_exported(name):
        options, sentence = _for_exported(name, device, dtype, trust_remote_code)
        head, tokenizer = load_exported_head(name, **options)
        _check_head(name, head)
        return head, tokenizer, sentence
    place = choose_device(device)
    folder_of(name)  # Its error names the model.
    model = load_or_convert(name)
    _check_head(name, model)
    return cast(Any, model), tokenizer_of(name, model), prepare(model, place, dtype)


def _for_exported(name: str, device: str | None, dtype: str, trust_remote_code: bool) -> tuple[dict[str, Any], str]:
    """Return the options that load an exported model, and a sentence that says how it computes."""
    if dtype == "bfloat16":
        raise UsageError("--dtype bfloat16 is not possible with an exported model, which computes in float32.")
    # Without the option, the runtime chooses: it may lack the GPU that torch has.
    options = {} if device is None else {"device": str(choose_device(device))}
    return {"trust_remote_code": trust_remote_code, **options}, f"{name} is exported, and computes in float32."


def _check_head(name: str, model: Any) -> None:
    if not is_classifier(model):
        raise UsageError(
            f"{name} is a {type(model).__name__}, and has no head for sequence classification, which predictions and "
            f"reranking need. {use_of(model)}"
        )


def kind_of(name: str, vectors: Sequence[str] = ()) -> type[TextVectors] | None:
    """Return the class for the vectors that a model gives, or None if it is one dense vector for a text.

    Args:
        name: A folder or a Hub id.
        vectors: The kinds of vectors that the user asked for, if the model gives several; none for the default.

    Raises:
        FileNotFoundError: If there is no such model.
        UsageError: If it gives other vectors.
        ValueError: If its folder has modules that are not supported, or a kind does not exist.
    """
    is_dense = [*vectors] in ([], [DENSE])
    if (exported := is_exported(name)) and not is_dense:
        raise UsageError(f"{name} is exported, and has dense vectors alone; pass the model before the export.")
    found = None if exported else text_vectors_of(folder_of(name))
    if found is None:
        return None if is_dense else retrieval_vectors(vectors)
    if vectors and tuple(vectors) != found.kinds:
        raise UsageError(f"{name} gives {' and '.join(found.kinds)} vectors, and not {' and '.join(vectors)}.")
    return found


def load_text_vectors(kind: type[TextVectors], name: str, device: torch.device, dtype: str) -> tuple[TextVectors, str]:
    """Load a model for the vectors of `kind_of`.

    Args:
        kind: The class.
        name: A folder or a Hub id.
        device: The device to compute on.
        dtype: `--dtype`.

    Returns:
        The model, and a sentence that says how it computes.

    Raises:
        UsageError: If it has no tokenizer.
        ValueError: If it cannot be converted, or does not fit its modules.
    """
    model = load_or_convert(name, base_model=kind.base_model)
    vectors = kind(model, tokenizer_of(name, model), folder_of(name))
    return vectors, prepare(model, device, dtype)


def tokenizer_of(name: str, model: SequenceEncoderPreTrainedModel) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model that was loaded from a folder or a Hub id.

    Raises:
        UsageError: If it has none.
    """
    tokenizer = load_tokenizer(transformer_folder(folder_of(name)), model)
    if tokenizer is None:
        raise UsageError(f"{name} has no tokenizer.")
    return tokenizer


def prepare(model: SequenceEncoderPreTrainedModel, device: torch.device, dtype: str) -> str:
    """Move a model to a device, in a dtype, for inference.

    Args:
        model: The model.
        device: The device.
        dtype: "float32" or "bfloat16"; anything else is what `optimize_for_inference` chooses.

    Returns:
        A sentence that says how it computes.
    """
    module = cast(nn.Module, model)
    module.to(device)
    if dtype in ("float32", "bfloat16"):
        module.to(getattr(torch, dtype))
        model.eval()
        if device.type == "cpu":
            model.prepack_weights()
        return f"{type(model).__name__} computes in {dtype}."
    return optimize_for_inference(model)


def identify(name: str) -> str:
    """Return what identifies the content of a model: its commit on the Hub, or a digest of the files in its folder.

    Raises:
        OSError: If a file cannot be read, or if there is no such model.
    """
    if not os.path.isdir(name):
        # The name of a folder in the cache of the Hub is the commit.
        return folder_of(name).name
    digest = blake2b(digest_size=16)
    for file in sorted(path for path in Path(name).rglob("*") if path.is_file()):
        place = file.relative_to(name)
        if file.suffix == ".md" or any(part.startswith(".") for part in place.parts):
            continue
        digest.update(f"{place.as_posix()}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as content:
            while block := content.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()
