"""Folders as the package gliclass saves them, with weights that follow from their names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel

HIDDEN, INNER = 24, 24
LABEL, SEPARATOR = 97, 98
SIZES: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": HIDDEN,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 8,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
        "type_vocab_size": 0,
        "max_relative_positions": -1,
    },
    "modernbert": {f"{name}_token_id": 1 for name in ("bos", "eos", "cls", "sep")},
}
SCORERS = {
    "simple": {},
    "weighted-dot": {
        "proj_text": (2 * HIDDEN, HIDDEN),
        "proj_label": (2 * HIDDEN, HIDDEN),
        "out_mlp.0": (4 * HIDDEN, 3 * HIDDEN),
        "out_mlp.3": (1, 4 * HIDDEN),
    },
    "mlp": {"mlp.0": (256, 2 * HIDDEN), "mlp.2": (128, 256), "mlp.4": (1, 128)},
}


def weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return the values of a weight, from -0.4 to 0.4, or around 1 for a norm or a scale."""
    numbers = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    values = 0.4 * (43758.5453 * torch.sin(sum(name.encode()) + 12.9898 * numbers)).frac()
    return (values + name.endswith(("orm.weight", "logit_scale"))).view(shape).float()


def save_gliclass(folder: Path, encoder: str, tokenizer: Any = None, **fields: Any) -> Path:
    """Save a GLiClass.

    Args:
        folder: The folder to write.
        encoder: The family of its encoder, one of `ENCODERS`.
        tokenizer: A tokenizer, which gets the tokens of the package, or None for none.
        **fields: Fields of `config.json` besides those of the encoder and the ids of tokens.
    """
    tokens, size = (LABEL, SEPARATOR), SIZES["vocab_size"]
    if tokenizer is not None:
        tokenizer.add_tokens(["<<LABEL>>", "<<SEP>>"], special_tokens=True)
        tokens, size = tokenizer.convert_tokens_to_ids(["<<LABEL>>", "<<SEP>>"]), len(tokenizer)
        tokenizer.save_pretrained(folder)
    encoder_config = AutoConfig.for_model(encoder, **{**SIZES, "vocab_size": size}, **ENCODERS[encoder])
    config = {
        "model_type": "GLiClass",
        "architectures": ["GLiClassModel"],
        "architecture_type": "uni-encoder",
        "encoder_config": {**encoder_config.to_dict(), "model_type": encoder},
        "encoder_model_name": encoder,
        "vocab_size": size,
        "class_token_index": tokens[0],
        "text_token_index": tokens[1],
        "hidden_size": INNER,
        "problem_type": "multi_label_classification",
        **fields,
    }
    with torch.device("meta"):
        trunk = AutoModel.from_config(encoder_config).state_dict()
    shapes = {f"encoder_model.{name}": tuple(tensor.shape) for name, tensor in trunk.items()}
    linear = {f"scorer.{name}": shape for name, shape in SCORERS[fields.get("scorer_type", "simple")].items()}
    for part in ("text_projector", "classes_projector"):
        linear |= {f"{part}.linear_1": (INNER, HIDDEN), f"{part}.linear_2": (HIDDEN, INNER)}
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    shapes["logit_scale"] = ()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = {f"model.{name}": weight(name, shape) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
