"""Tiny models of other families, for the tests of conversion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

SIZES = {
    "vocab_size": 97,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 50,
}


def bert(model: str = "BertModel", **options: Any) -> Any:
    """Return a tiny BERT."""
    return getattr(transformers, model)(transformers.BertConfig(**{**SIZES, **options}))


def electra(model: str = "ElectraModel", **options: Any) -> Any:
    """Return a tiny ELECTRA."""
    return getattr(transformers, model)(transformers.ElectraConfig(**{**SIZES, "embedding_size": 24, **options}))


def albert(model: str = "AlbertModel", **options: Any) -> Any:
    """Return a tiny ALBERT."""
    return getattr(transformers, model)(transformers.AlbertConfig(**{**SIZES, "embedding_size": 12, **options}))


def nomic(model: str = "NomicBertModel", pooler: bool = False, **options: Any) -> Any:
    """Return a tiny Nomic BERT."""
    config = transformers.NomicBertConfig(**{**SIZES, **options})
    return getattr(transformers, model)(config, **({"add_pooling_layer": True} if pooler else {}))


def eurobert(model: str = "EuroBertModel", **options: Any) -> Any:
    """Return a tiny EuroBERT."""
    fields = {**SIZES, "num_attention_heads": 6, "num_key_value_heads": 2, "pad_token_id": 0}
    return getattr(transformers, model)(transformers.EuroBertConfig(**{**fields, **options}))


def deberta(model: str = "DebertaV2Model", **options: Any) -> Any:
    """Return a tiny DeBERTa v2 with disentangled attention."""
    relative = {"relative_attention": True, "pos_att_type": "c2p|p2c", "position_buckets": 8}
    return getattr(transformers, model)(transformers.DebertaV2Config(**{**SIZES, **relative, **options}))


def roformer(model: str = "RoFormerModel", **options: Any) -> Any:
    """Return a tiny RoFormer."""
    return getattr(transformers, model)(transformers.RoFormerConfig(**{**SIZES, **options}))


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change the tensors of a saved model."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
