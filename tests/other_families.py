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


# What a tiny model of a family needs beside `SIZES`.
_FIELDS: dict[str, dict[str, Any]] = {
    "Electra": {"embedding_size": 24},
    "Albert": {"embedding_size": 12},
    "EuroBert": {"num_attention_heads": 6, "num_key_value_heads": 2, "pad_token_id": 0},
    "DebertaV2": {"relative_attention": True, "pos_att_type": "c2p|p2c", "position_buckets": 8},
    "ModernBert": {"pad_token_id": 0},
}


def tiny_model(family: str, name: str = "Model", /, *, pooler: bool = False, **options: Any) -> Any:
    """Return a tiny model of another family, such as `tiny_model("Bert", "ForMaskedLM", hidden_act="relu")`."""
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **_FIELDS.get(family, {}), **options})
    return getattr(transformers, family + name)(config, **({"add_pooling_layer": True} if pooler else {}))


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change the tensors of a saved model."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
