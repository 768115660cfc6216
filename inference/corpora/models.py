"""Loads the model of a run, and prepares it for its device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from transformers import PreTrainedTokenizerBase

from ...command_line import UsageError
from ...conversion.source import Source
from ...data.vector_kinds import DENSE
from ...modeling import (
    SequenceEncoderForSequenceClassification,
    SequenceEncoderForSpanExtraction,
    SequenceEncoderPreTrainedModel,
)
from ..device import choose_device, prepare
from ..runtimes.exported_encoder import ExportedEncoder
from ..runtimes.exported_extractor import ExportedExtractor
from ..runtimes.exported_graph import ExportedHead, is_classifier
from ..runtimes.exported_heads import load_exported_head
from ..uses import use_of
from ..vectors.retrieval_vectors import retrieval_vectors
from ..vectors.text_vectors import TextVectors
from ..vectors.vector_kinds import text_vectors_of


def load_encoder(
    source: Source, device: str | None, dtype: str, trust_remote_code: bool = False
) -> tuple[Any, PreTrainedTokenizerBase, str]:
    """Load an encoder of this package or of a family that `convert` supports, or an exported one.

    Args:
        source: The model.
        device: The device to compute on; by default that of `choose_device`, or of the runtime if it is exported.
        dtype: `--dtype`.
        trust_remote_code: Whether to load a torch program, which can run any code.

    Returns:
        The encoder, its tokenizer, and a sentence that says how it computes.

    Raises:
        UsageError: If it has no tokenizer, or cannot compute on that device or in that dtype.
        ValueError: If it cannot be converted, or is a torch program and not trusted.
    """
    if source.is_exported:
        options, sentence = _for_exported(source.name, device, dtype, trust_remote_code)
        exported = ExportedEncoder.from_pretrained(source.name, **options)
        return exported, exported.tokenizer, sentence
    place = choose_device(device)
    model = source.load(base_model=True)
    return model, source.tokenizer_for(model), prepare(model, place, dtype)


def load_classifier(
    source: Source, device: str | None, dtype: str, trust_remote_code: bool = False
) -> tuple[SequenceEncoderForSequenceClassification | ExportedHead, PreTrainedTokenizerBase, str]:
    """Load a model with a head for sequence classification, as `load_encoder`.

    Raises:
        UsageError: If it has no such head or no tokenizer, or cannot compute on that device or in that dtype.
        ValueError: If it cannot be converted, or is a torch program and not trusted.
    """
    model, tokenizer, sentence = load_model(source, device, dtype, trust_remote_code)
    if not is_classifier(model):
        raise UsageError(
            f"{source.name} is a {type(model).__name__} without a head for sequence classification, which predictions "
            f"and reranking need. {use_of(model)}"
        )
    return cast(Any, model), tokenizer, sentence


def load_model(
    source: Source, device: str | None, dtype: str, trust_remote_code: bool = False
) -> tuple[SequenceEncoderPreTrainedModel | ExportedHead, PreTrainedTokenizerBase, str]:
    """Load a model with its head, as `load_encoder`.

    Raises:
        UsageError: If it has no tokenizer, or cannot compute on that device or in that dtype.
        ValueError: If it cannot be converted, or is a torch program and not trusted.
    """
    if source.is_exported:
        options, sentence = _for_exported(source.name, device, dtype, trust_remote_code)
        return *load_exported_head(source.name, **options), sentence
    place = choose_device(device)
    model = source.load()
    return model, source.tokenizer_for(model), prepare(model, place, dtype)


def load_extractor(
    source: Source, device: str | None, dtype: str, trust_remote_code: bool = False
) -> tuple[SequenceEncoderForSpanExtraction | ExportedExtractor, PreTrainedTokenizerBase, str]:
    """Load a model with a head for span extraction, such as a GLiNER, as `load_encoder`.

    Raises:
        UsageError: If it has no such head or no tokenizer, or cannot compute on that device or in that dtype.
        ValueError: If it cannot be converted, or is a torch program and not trusted.
    """
    model, tokenizer, sentence = load_model(source, device, dtype, trust_remote_code)
    if not isinstance(model, SequenceEncoderForSpanExtraction | ExportedExtractor):
        raise UsageError(
            f"{source.name} is a {type(model).__name__} without a head for span extraction, which a GLiNER has. "
            f"{use_of(model)}"
        )
    return model, tokenizer, sentence


def _for_exported(name: str, device: str | None, dtype: str, trust_remote_code: bool) -> tuple[dict[str, Any], str]:
    """Return the options that load an exported model, and a sentence that says how it computes."""
    if dtype == "bfloat16":
        raise UsageError("--dtype bfloat16 is not possible with an exported model, which computes in float32.")
    # Without the option, the runtime chooses: it may lack the GPU that torch has.
    options = {} if device is None else {"device": str(choose_device(device))}
    return {
        "trust_remote_code": trust_remote_code,
        **options,
    }, f"{name} is an exported model, which computes in float32."


def kind_of(source: Source, vectors: Sequence[str] = ()) -> type[TextVectors] | None:
    """Return the class for the vectors that a model gives, or None if it is one dense vector for a text.

    Args:
        source: The model.
        vectors: The kinds of vectors that the user asked for, if the model gives several; none for the default.

    Raises:
        UsageError: If it gives other vectors.
        ValueError: If its folder has modules that are not supported, or a kind does not exist.
    """
    is_dense = [*vectors] in ([], [DENSE])
    if source.is_exported and not is_dense:
        raise UsageError(f"{source.name} is exported, and computes only dense vectors; pass the original model.")
    found = None if source.is_exported else text_vectors_of(source.folder)
    if found is None:
        return None if is_dense else retrieval_vectors(vectors)
    if vectors and tuple(vectors) != found.kinds:
        raise UsageError(f"{source.name} computes {' and '.join(found.kinds)} vectors, not {' and '.join(vectors)}.")
    return found


def load_text_vectors(
    kind: type[TextVectors], source: Source, device: torch.device, dtype: str
) -> tuple[TextVectors, str]:
    """Load a model for the vectors of `kind_of`.

    Args:
        kind: The class.
        source: The model.
        device: The device to compute on.
        dtype: `--dtype`.

    Returns:
        The model, and a sentence that says how it computes.

    Raises:
        UsageError: If it has no tokenizer.
        ValueError: If it cannot be converted, or does not fit its modules.
    """
    model = source.load(base_model=kind.base_model)
    vectors = kind(model, source.tokenizer_for(model), source.folder)
    return vectors, prepare(model, device, dtype)
