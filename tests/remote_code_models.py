"""Models of families whose code is on the Hub, written from their papers: random weights and formulas in plain torch.

Shapes: B batch, S sequence, D hidden, H heads, C channels of a head.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

Weights = Mapping[str, torch.Tensor]
Fields = Mapping[str, Any]

_SIZES = {
    "vocab_size": 97,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "pad_token_id": 0,
}
NEOBERT: dict[str, Any] = {
    **_SIZES,
    "model_type": "neobert",
    "architectures": ["NeoBERTLMHead"],
    "auto_map": {"AutoConfig": "model.NeoBERTConfig", "AutoModel": "model.NeoBERT"},
    "max_length": 64,
    "norm_eps": 1e-5,
}
JINA: dict[str, Any] = {
    **_SIZES,
    "model_type": "bert",
    "architectures": ["JinaBertForMaskedLM"],
    "auto_map": {"AutoModel": "jinaai/jina-bert-implementation--modeling_bert.JinaBertModel"},
    "position_embedding_type": "alibi",
    "feed_forward_type": "geglu",
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
    "max_position_embeddings": 8192,
}
NEW: dict[str, Any] = {
    **_SIZES,
    "model_type": "new",
    "architectures": ["NewModel"],
    "auto_map": {"AutoModel": "Alibaba-NLP/new-impl--modeling.NewModel"},
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 50,
    "rope_theta": 500.0,
    "type_vocab_size": 2,
}
NOMIC: dict[str, Any] = {
    "model_type": "nomic_bert",
    "architectures": ["NomicBertForPreTraining"],
    "auto_map": {"AutoModel": "modeling_hf_nomic_bert.NomicBertModel"},
    "activation_function": "swiglu",
    "layer_norm_epsilon": 1e-12,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "n_embd": 24,
    "n_head": 3,
    "n_inner": 300,
    "n_layer": 3,
    "n_positions": 50,
    "qkv_proj_bias": False,
    "rotary_emb_base": 1000,
    "rotary_emb_fraction": 1.0,
    "vocab_size": 97,
    "pad_vocab_size_multiple": 8,
}


def _linear(weights: Weights, name: str, states: torch.Tensor) -> torch.Tensor:
    return states @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0.0)


def _layer_norm(weights: Weights, name: str, states: torch.Tensor, eps: float) -> torch.Tensor:
    centred = states - states.mean(-1, keepdim=True)
    return (
        centred / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weights[f"{name}.weight"]
        + weights[f"{name}.bias"]
    )


def _rms_norm(weights: Weights, name: str, states: torch.Tensor, eps: float) -> torch.Tensor:
    return states / (states.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weights[f"{name}.weight"]


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Attend with a bias that broadcasts to (B, H, S, S), from (B, S, H, C) to (B, S, D)."""
    scores = torch.einsum("bqhc,bkhc->bhqk", query, key) / math.sqrt(query.shape[-1]) + bias
    return torch.einsum("bhqk,bkhc->bqhc", scores.softmax(-1), value).flatten(2)


def _hidden_padding(mask: torch.Tensor) -> torch.Tensor:
    return torch.zeros(mask.shape).masked_fill(mask == 0, -math.inf)[:, None, None]


def _frequencies(channels: int, theta: float) -> torch.Tensor:
    return torch.tensor([theta ** (-2 * pair / channels) for pair in range(channels // 2)])


def _rotate_half_split(states: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
    """Rotate the channel pairs (i, i + C / 2) of (B, S, H, C)."""
    angles = (torch.arange(states.shape[1])[:, None] * frequencies)[:, None]
    first, second = states.chunk(2, dim=-1)
    return torch.cat(
        [first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()], dim=-1
    )


def _rotate_adjacent(states: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
    """Rotate the channel pairs (2i, 2i + 1) of (B, S, H, C), as complex numbers."""
    turns = torch.polar(torch.ones(1), torch.arange(states.shape[1])[:, None] * frequencies)[:, None]
    return torch.view_as_real(torch.view_as_complex(states.unflatten(-1, (-1, 2)).contiguous()) * turns).flatten(-2)


def neobert(weights: Weights, fields: Fields, ids: torch.Tensor, mask: torch.Tensor, _: Any = None) -> torch.Tensor:
    """Compute the last hidden states of a NeoBERT."""
    heads, eps = fields["num_attention_heads"], fields["norm_eps"]
    states = weights["encoder.weight"][ids]
    frequencies = _frequencies(fields["hidden_size"] // heads, 10_000.0)
    for index in range(fields["num_hidden_layers"]):
        layer = f"transformer_encoder.{index}"
        qkv = _linear(weights, f"{layer}.qkv", _rms_norm(weights, f"{layer}.attention_norm", states, eps))
        # The query, the key and the value of a head follow each other.
        query, key, value = qkv.unflatten(-1, (heads, 3, -1)).unbind(3)
        query, key = _rotate_adjacent(query, frequencies), _rotate_adjacent(key, frequencies)
        states = states + _linear(weights, f"{layer}.wo", _attend(query, key, value, _hidden_padding(mask)))
        gate, up = _linear(weights, f"{layer}.ffn.w12", _rms_norm(weights, f"{layer}.ffn_norm", states, eps)).chunk(
            2, -1
        )
        states = states + _linear(weights, f"{layer}.ffn.w3", F.silu(gate) * up)
    return _rms_norm(weights, "layer_norm", states, eps)


def _embed(weights: Weights, fields: Fields, ids: torch.Tensor, types: torch.Tensor | None, norm: str) -> torch.Tensor:
    states = weights["embeddings.word_embeddings.weight"][ids]
    if (table := weights.get("embeddings.token_type_embeddings.weight")) is not None:
        states = states + table[torch.zeros_like(ids) if types is None else types]
    return _layer_norm(weights, norm, states, fields["layer_norm_eps"])


def alibi_slopes(heads: int) -> list[float]:
    """Return the slopes of Press et al. (2022): a geometric series, and every other one of the next for odd counts."""
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (index + 1) / power) for index in range(power)]
    extra = [2 ** (-8 * (index + 1) / (2 * power)) for index in range(0, 2 * power, 2)]
    return [*slopes, *extra][:heads]


def jina_bert(
    weights: Weights, fields: Fields, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute the last hidden states of a JinaBERT."""
    heads, eps = fields["num_attention_heads"], fields["layer_norm_eps"]
    act = {"geglu": F.gelu, "reglu": F.relu}[fields["feed_forward_type"]]
    states = _embed(weights, fields, ids, types, "embeddings.LayerNorm")
    places = torch.arange(ids.shape[1])
    distances = (places[:, None] - places).abs()
    bias = _hidden_padding(mask) - torch.tensor(alibi_slopes(heads))[:, None, None] * distances
    for index in range(fields["num_hidden_layers"]):
        layer = f"encoder.layer.{index}"
        query, key, value = (
            _linear(weights, f"{layer}.attention.self.{part}", states).unflatten(-1, (heads, -1))
            for part in ("query", "key", "value")
        )
        attended = _linear(weights, f"{layer}.attention.output.dense", _attend(query, key, value, bias))
        states = _layer_norm(weights, f"{layer}.attention.output.LayerNorm", states + attended, eps)
        gate, up = _linear(weights, f"{layer}.mlp.gated_layers", states).chunk(2, -1)
        states = _layer_norm(
            weights, f"{layer}.mlp.layernorm", states + _linear(weights, f"{layer}.mlp.wo", act(gate) * up), eps
        )
    return states


def new_model(
    weights: Weights, fields: Fields, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute the last hidden states of a GTE in the format of `NewModel`."""
    heads, eps = fields["num_attention_heads"], fields["layer_norm_eps"]
    channels = fields["hidden_size"] // heads
    frequencies = _frequencies(channels, fields["rope_theta"])
    if fields.get("rope_scaling"):
        factor = fields["rope_scaling"]["factor"]
        frequencies = _frequencies(channels, fields["rope_theta"] * factor) / factor ** (2 / channels)
    states = _embed(weights, fields, ids, types, "embeddings.LayerNorm")
    for index in range(fields["num_hidden_layers"]):
        layer = f"encoder.layer.{index}"
        if fields.get("pack_qkv", True):
            parts = _linear(weights, f"{layer}.attention.qkv_proj", states).chunk(3, -1)
        else:
            parts = tuple(_linear(weights, f"{layer}.attention.{part}_proj", states) for part in "qkv")
        query, key, value = (part.unflatten(-1, (heads, -1)) for part in parts)
        query, key = _rotate_half_split(query, frequencies), _rotate_half_split(key, frequencies)
        attended = _linear(weights, f"{layer}.attention.o_proj", _attend(query, key, value, _hidden_padding(mask)))
        states = _layer_norm(weights, f"{layer}.attn_ln", states + attended, eps)
        up, gate = _linear(weights, f"{layer}.mlp.up_gate_proj", states).chunk(2, -1)
        down = _linear(weights, f"{layer}.mlp.down_proj", F.gelu(gate) * up)
        states = _layer_norm(weights, f"{layer}.mlp_ln", states + down, eps)
    return states


def nomic_bert(
    weights: Weights, fields: Fields, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute the last hidden states of a Nomic BERT."""
    heads, eps = fields["n_head"], fields["layer_norm_epsilon"]
    frequencies = _frequencies(fields["n_embd"] // heads, fields["rotary_emb_base"])
    states = _embed(weights, {"layer_norm_eps": eps}, ids, types, "emb_ln")
    for index in range(fields["n_layer"]):
        layer = f"encoder.layers.{index}"
        parts = _linear(weights, f"{layer}.attn.Wqkv", states).chunk(3, -1)
        query, key, value = (part.unflatten(-1, (heads, -1)) for part in parts)
        query, key = _rotate_half_split(query, frequencies), _rotate_half_split(key, frequencies)
        attended = _linear(weights, f"{layer}.attn.out_proj", _attend(query, key, value, _hidden_padding(mask)))
        states = _layer_norm(weights, f"{layer}.norm1", states + attended, eps)
        up, gate = _linear(weights, f"{layer}.mlp.fc11", states), _linear(weights, f"{layer}.mlp.fc12", states)
        states = _layer_norm(
            weights, f"{layer}.norm2", states + _linear(weights, f"{layer}.mlp.fc2", up * F.silu(gate)), eps
        )
    return states


@dataclass(frozen=True)
class RemoteCodeModel:
    """A tiny model of a family, as a folder that its code on the Hub would save, and its formulas.

    Args:
        fields: The content of `config.json`.
        shapes: Returns the shapes of the weights of the trunk.
        formulas: Computes the last hidden states.
        prefix: The prefix of the trunk in models with a head.
    """

    fields: Fields
    shapes: Callable[[Fields], dict[str, tuple[int, ...]]]
    formulas: Callable[..., torch.Tensor]
    prefix: str

    def weights(self, heads: Mapping[str, tuple[int, ...]] | None = None, seed: int = 0) -> dict[str, torch.Tensor]:
        """Return random weights, none of which is zero; with `heads`, those of a model with a head."""
        generator = torch.Generator().manual_seed(seed)
        prefix = self.prefix if heads else ""
        shapes = {prefix + name: shape for name, shape in self.shapes(self.fields).items()} | dict(heads or {})
        return {name: 0.3 * torch.randn(shape, generator=generator) + 0.1 for name, shape in shapes.items()}

    def states(self, weights: Weights, *batch: Any) -> torch.Tensor:
        """Compute the last hidden states (B, S, D)."""
        trunk = {name.removeprefix(self.prefix): tensor for name, tensor in weights.items()}
        return self.formulas(trunk, self.fields, *batch)


def save(folder: Path, fields: Fields, weights: Weights) -> Path:
    """Write `config.json` and `model.safetensors`, and code that must not run."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(fields)))
    for name in ("model", "modeling_bert", "modeling", "modeling_hf_nomic_bert", "configuration"):
        (folder / f"{name}.py").write_text("raise RuntimeError('code of the Hub was run')\n")
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors")
    return folder


def _with_bias(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str, size: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def neobert_shapes(fields: Fields) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a NeoBERT's weights. The feed-forward network has two thirds of the stated width."""
    size = fields["hidden_size"]
    width = math.ceil(int(2 * fields["intermediate_size"] / 3) / 8) * 8
    shapes: dict[str, tuple[int, ...]] = {"encoder.weight": (fields["vocab_size"], size), "layer_norm.weight": (size,)}
    for index in range(fields["num_hidden_layers"]):
        layer = f"transformer_encoder.{index}"
        shapes |= {f"{layer}.{norm}.weight": (size,) for norm in ("attention_norm", "ffn_norm")}
        shapes |= {f"{layer}.qkv.weight": (3 * size, size), f"{layer}.wo.weight": (size, size)}
        shapes |= {f"{layer}.ffn.w12.weight": (2 * width, size), f"{layer}.ffn.w3.weight": (size, width)}
    return shapes


def _embedding_shapes(fields: Fields, size: int, types: int, norm: str) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"embeddings.word_embeddings.weight": (fields["vocab_size"], size)}
    shapes |= {"embeddings.token_type_embeddings.weight": (types, size)} if types else {}
    return {**shapes, **_norm(norm, size)}


def jina_shapes(fields: Fields) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a JinaBERT's weights, with its pooler."""
    size, width = fields["hidden_size"], fields["intermediate_size"]
    shapes = _embedding_shapes(fields, size, fields["type_vocab_size"], "embeddings.LayerNorm")
    shapes |= _with_bias("pooler.dense", size, size)
    for index in range(fields["num_hidden_layers"]):
        layer = f"encoder.layer.{index}"
        for part in ("query", "key", "value"):
            shapes |= _with_bias(f"{layer}.attention.self.{part}", size, size)
        shapes |= _with_bias(f"{layer}.attention.output.dense", size, size)
        shapes |= _norm(f"{layer}.attention.output.LayerNorm", size)
        shapes |= {f"{layer}.mlp.gated_layers.weight": (2 * width, size)}
        shapes |= {**_with_bias(f"{layer}.mlp.wo", size, width), **_norm(f"{layer}.mlp.layernorm", size)}
    return shapes


def new_shapes(fields: Fields) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights of a `NewModel`."""
    size, width = fields["hidden_size"], fields["intermediate_size"]
    shapes = _embedding_shapes(fields, size, fields.get("type_vocab_size", 1), "embeddings.LayerNorm")
    for index in range(fields["num_hidden_layers"]):
        layer = f"encoder.layer.{index}"
        if fields.get("pack_qkv", True):
            shapes |= _with_bias(f"{layer}.attention.qkv_proj", 3 * size, size)
        else:
            for part in "qkv":
                shapes |= _with_bias(f"{layer}.attention.{part}_proj", size, size)
        shapes |= _with_bias(f"{layer}.attention.o_proj", size, size)
        shapes |= {**_norm(f"{layer}.attn_ln", size), **_norm(f"{layer}.mlp_ln", size)}
        shapes |= {f"{layer}.mlp.up_gate_proj.weight": (2 * width, size)}
        shapes |= _with_bias(f"{layer}.mlp.down_proj", size, width)
    return shapes


def nomic_shapes(fields: Fields) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a Nomic BERT's weights. Vocabulary and width are rounded up."""
    size, width = fields["n_embd"], math.ceil(fields["n_inner"] / 256) * 256
    multiple = fields.get("pad_vocab_size_multiple", 1)
    rows = math.ceil(fields["vocab_size"] / multiple) * multiple
    shapes = _embedding_shapes({"vocab_size": rows}, size, fields.get("type_vocab_size", 2), "emb_ln")
    for index in range(fields["n_layer"]):
        layer = f"encoder.layers.{index}"
        shapes |= {f"{layer}.attn.Wqkv.weight": (3 * size, size), f"{layer}.attn.out_proj.weight": (size, size)}
        shapes |= {f"{layer}.mlp.{part}.weight": (width, size) for part in ("fc11", "fc12")}
        shapes |= {f"{layer}.mlp.fc2.weight": (size, width)}
        shapes |= {**_norm(f"{layer}.norm1", size), **_norm(f"{layer}.norm2", size)}
    return shapes


MODELS = {
    "neobert": RemoteCodeModel(NEOBERT, neobert_shapes, neobert, "model."),
    "jina_bert": RemoteCodeModel(JINA, jina_shapes, jina_bert, "bert."),
    "new": RemoteCodeModel(NEW, new_shapes, new_model, "new."),
    "nomic_bert": RemoteCodeModel(NOMIC, nomic_shapes, nomic_bert, "bert."),
}


def variant(name: str, **fields: Any) -> RemoteCodeModel:
    """Return a family's model with other fields."""
    return replace(MODELS[name], fields={**MODELS[name].fields, **fields})


def encoder(name: str, **fields: Any) -> RemoteCodeModel:
    """Return a family's model without a head."""
    architecture = {"neobert": "NeoBERT", "jina_bert": "JinaBertModel", "new": "NewModel"}[name]
    return variant(name, architectures=[architecture], **fields)


def batch(side: str = "right") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return token ids, a mask and segments of texts of several lengths."""
    lengths = torch.tensor([11, 4, 7])[:, None]
    places = torch.arange(11)
    mask = (places < lengths if side == "right" else places >= 11 - lengths).long()
    return torch.randint(5, 97, (3, 11)) * mask, mask, torch.randint(0, 2, (3, 11)) * mask
