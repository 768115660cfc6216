"""Lets models of sentence-transformers pass texts to a SequenceEncoder without padding."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import nn
from transformers import DataCollatorWithFlattening

from ...modeling import SequenceEncoderForMaskedLM, SequenceEncoderModel

# What marks the texts in a flattened batch.
_BOUNDARIES = {"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"}


def reads_flat_batches(model: Any) -> bool:
    """Return whether an object is a model of sentence-transformers that `unpad_inputs` supports."""
    if not isinstance(model, nn.Sequential) or not len(model):
        return False
    encoder = getattr(model[0], "auto_model", None)
    # Versions before 6 pad all batches.
    return isinstance(encoder, SequenceEncoderModel | SequenceEncoderForMaskedLM) and hasattr(
        model[0], "can_flatten_inputs"
    )


def unpad_inputs(model: Any) -> None:
    """Let a model of sentence-transformers concatenate texts instead of padding them, in inference and training.

    A SequenceEncoder drops padding anyway, but the modules after it, such as the pooling of a sparse encoder over the
    whole vocabulary, compute padded batches. sentence-transformers itself concatenates texts only for models with flash
    attention. Outputs stay the same. The pooling of a sparse encoder takes the largest logits before it transforms
    them, instead of after that, which needs less memory. A saved folder does not contain these settings.

    Args:
        model: A `SparseEncoder`, `MultiVectorEncoder` or `SentenceTransformer` for which `reads_flat_batches`.
    """
    transformer = model[0]
    transformer.data_collator = DataCollatorWithFlattening(return_flash_attn_kwargs=True)
    if transformer.model_forward_params is not None:
        transformer.model_forward_params |= _BOUNDARIES
    # Positions start at 0 in all SequenceEncoders.
    transformer._flatten_position_offset = 0
    transformer.can_flatten_inputs = True
    for module in model:
        if type(module).__name__ == "SpladePooling":
            module.forward = MethodType(_splade_forward, module)


def _splade_forward(pooling: Any, features: dict[str, Any]) -> dict[str, Any]:
    """Compute the vectors of a `SpladePooling` (Formal et al., 2021), in the place of its `forward`.

    Its transformation never decreases, so that it can follow the maximum over the tokens of a text. Unlike slices, the
    parts of a split do not each get a gradient of the size of all logits.
    """
    if "cu_seq_lens_q" not in features:
        unchanged: dict[str, Any] = type(pooling).forward(pooling, features)
        return unchanged
    parts = features["token_embeddings"][0].split(features["cu_seq_lens_q"].diff().tolist())

    def transform(logits: torch.Tensor) -> torch.Tensor:
        logits = logits.relu().log1p()
        return logits.log1p() if pooling.activation_function == "log1p_relu" else logits

    if pooling.pooling_strategy == "max":
        vectors = transform(torch.stack([part.max(dim=0).values for part in parts]))
    else:
        vectors = torch.stack([transform(part).sum(dim=0) for part in parts])
    pooling.embedding_dimension = pooling.embedding_dimension or vectors.shape[1]
    return {**features, "sentence_embedding": vectors}
