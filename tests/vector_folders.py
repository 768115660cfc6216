"""Tiny sparse and late-interaction encoders in folders of sentence-transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sequence_encoder import (
    SequenceEncoderConfig,
    SequenceEncoderForMaskedLM,
    SequenceEncoderModel,
    SequenceEncoderTokenizer,
)

TEXTS = [
    "the red cat is here",
    "a dog , a cat , and an owl",
    "we saw the green owl by the blue dog",
    "it",
    "the owl saw it , and the dog saw the owl by the cat here",
]
PROMPTS = {"query": "where is ", "document": "here is "}
CHANNELS = 8
_NAMES = {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}


def tiny_bert(tokenizer: SequenceEncoderTokenizer, **fields: Any) -> SequenceEncoderConfig:
    """Return the configuration of a tiny encoder for a tokenizer."""
    return SequenceEncoderConfig.from_preset(
        "bert",
        vocab_size=len(tokenizer),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=32,
        initializer_range=0.5,
        **{f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "cls", "sep", "mask")},
        **fields,
    )


def save_vector_folders(folder: Path) -> dict[str, Path]:
    """Save a sparse and a late-interaction encoder with random weights, and return their folders by their names.

    "sparse" and "late" have all settings that matter; "sum" and "plain" those that the others lack.
    """
    from sentence_transformers import MultiVectorEncoder, SparseEncoder
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    tokenizer = SequenceEncoderTokenizer.train_from_iterator(TEXTS * 5, vocab_size=90, show_progress=False)
    torch.manual_seed(0)

    def first(kind: Any, **options: Any) -> Transformer:
        config = tiny_bert(tokenizer, max_position_embeddings=32)
        kind(config).save_pretrained(folder / kind.__name__)
        tokenizer.save_pretrained(folder / kind.__name__)
        return Transformer(str(folder / kind.__name__), **options)

    masked = first(SequenceEncoderForMaskedLM, transformer_task="fill-mask")
    expansion = {"strategy": "min", "attend": True, "length": 12}
    late = first(SequenceEncoderModel, query_length=14, document_length=15, query_expansion=expansion)
    plain = first(SequenceEncoderModel)
    steps = [Dense(24, CHANNELS, bias=False, activation_function=None, **_NAMES), MultiVectorMask([",", "?"])]
    models = {
        "sparse": SparseEncoder(modules=[masked, SpladePooling("max")], prompts=PROMPTS, max_active_dims=9),
        "sum": SparseEncoder(modules=[masked, SpladePooling("sum", "log1p_relu")]),
        "late": MultiVectorEncoder(modules=[late, *steps, Normalize("token_embeddings")], prompts=PROMPTS),
        "plain": MultiVectorEncoder(modules=[plain, MultiVectorMask()]),
    }
    for name, model in models.items():
        model.save_pretrained(str(folder / name))
    return {name: folder / name for name in models}
