"""With the weights of torch's encoder, BERT or ModernBERT, the model computes the same outputs and gradients.

Each family has a function that renames its tensors to ours, for weights as well as gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, ModernBertConfig, ModernBertModel, PreTrainedModel

from sequence_encoder import SequenceEncoderConfig, SequenceEncoderForMaskedLM, SequenceEncoderModel
from sequence_encoder.tests.fixtures.comparisons import assert_same

VOCAB, HIDDEN, LAYERS, HEADS, INNER = 97, 24, 3, 3, 40
LENGTHS = [5, 11, 1, 5, 8]

Tensors = dict[str, torch.Tensor]


class SourceEncoder(nn.Module):
    """A reference of torch modules: scaled embeddings, sinusoidal positions, encoder layers, projection."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, HIDDEN)
        layer = nn.TransformerEncoderLayer(HIDDEN, HEADS, INNER, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.projection = nn.Linear(HIDDEN, VOCAB)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden_states = self.embedding(input_ids) * math.sqrt(HIDDEN) + sinusoids(input_ids.shape[1])
        return self.projection(self.encoder(hidden_states, src_key_padding_mask=attention_mask == 0))


def sinusoids(length: int) -> torch.Tensor:
    """Compute sin on even and cos on odd channels in plain Python, of shape (length, HIDDEN)."""
    waves = [math.sin, math.cos]
    return torch.tensor(
        [[waves[c % 2](p / 10000 ** ((c - c % 2) / HIDDEN)) for c in range(HIDDEN)] for p in range(length)]
    )


def fuse(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Order the rows by head, then query / key / value, then channel."""
    return torch.stack([x.unflatten(0, (HEADS, -1)) for x in (query, key, value)], dim=1).flatten(0, 2)


def renamed(tensors: Tensors, names: dict[str, str]) -> Tensors:
    """Return the tensors whose names start with a key of `names`, with that prefix replaced."""
    return {
        new + name.removeprefix(old): tensor
        for old, new in names.items()
        for name, tensor in tensors.items()
        if name.startswith(old)
    }


def from_torch(tensors: Tensors) -> Tensors:
    ours = renamed(tensors, {"embedding.": "model.embed_tokens.", "projection.": "decoder."})
    for index in range(LAYERS):
        old, new = f"encoder.layers.{index}", f"model.layers.{index}"
        for kind in ("weight", "bias"):
            ours[f"{new}.self_attn.qkv_proj.{kind}"] = fuse(*tensors[f"{old}.self_attn.in_proj_{kind}"].chunk(3))
        names = {
            "self_attn.out_proj": "self_attn.o_proj",
            "norm1": "attn_norm",
            "linear1": "mlp.up_proj",
            "linear2": "mlp.down_proj",
            "norm2": "mlp_norm",
        }
        ours |= renamed(tensors, {f"{old}.{theirs}.": f"{new}.{mine}." for theirs, mine in names.items()})
    return ours


def from_bert(tensors: Tensors) -> Tensors:
    names = {
        "embeddings.word_embeddings.": "embed_tokens.",
        "embeddings.token_type_embeddings.": "embeddings.types.",
        "embeddings.position_embeddings.": "embeddings.positions.table.",
        "embeddings.LayerNorm.": "embeddings.norm.",
        "pooler.": "pooler.",
    }
    ours = renamed(tensors, names)
    for index in range(LAYERS):
        old, new = f"encoder.layer.{index}", f"layers.{index}"
        for kind in ("weight", "bias"):
            parts = (tensors[f"{old}.attention.self.{part}.{kind}"] for part in ("query", "key", "value"))
            ours[f"{new}.self_attn.qkv_proj.{kind}"] = fuse(*parts)
        names = {
            "attention.output.dense": "self_attn.o_proj",
            "attention.output.LayerNorm": "attn_norm",
            "intermediate.dense": "mlp.up_proj",
            "output.dense": "mlp.down_proj",
            "output.LayerNorm": "mlp_norm",
        }
        ours |= renamed(tensors, {f"{old}.{theirs}.": f"{new}.{mine}." for theirs, mine in names.items()})
    return ours


def from_modernbert(tensors: Tensors) -> Tensors:
    ours = renamed(
        tensors,
        {"embeddings.tok_embeddings.": "embed_tokens.", "embeddings.norm.": "embeddings.norm.", "final_norm.": "norm."},
    )
    for index in range(LAYERS):
        layer = f"layers.{index}"
        ours[f"{layer}.self_attn.qkv_proj.weight"] = fuse(*tensors[f"{layer}.attn.Wqkv.weight"].chunk(3))
        names = {
            "attn.Wo": "self_attn.o_proj",
            "attn_norm": "attn_norm",
            "mlp.Wi": "mlp.gate_up_proj",
            "mlp.Wo": "mlp.down_proj",
            "mlp_norm": "mlp_norm",
        }
        ours |= renamed(tensors, {f"{layer}.{theirs}.": f"{layer}.{mine}." for theirs, mine in names.items()})
    return ours


def assert_same_gradients(ours: nn.Module, theirs: nn.Module, to_ours: Callable[[Tensors], Tensors]) -> None:
    expected = to_ours({name: p.grad for name, p in theirs.named_parameters() if p.grad is not None})
    found = {name: p.grad for name, p in ours.named_parameters()}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert_same(found[name], gradient)


@pytest.fixture
def batch(ragged: Callable[..., Any]) -> dict[str, torch.Tensor]:
    return dict(zip(("input_ids", "attention_mask"), ragged(LENGTHS), strict=True))


def test_the_model_agrees_with_the_encoder_of_torch(
    tiny_config: Callable[..., Any], randomize: Callable[..., Any], batch: dict[str, torch.Tensor]
) -> None:
    source = randomize(SourceEncoder())
    model = SequenceEncoderForMaskedLM(tiny_config("vanilla")).eval()
    model.load_state_dict(from_torch(source.state_dict()))
    real = batch["attention_mask"] == 1
    expected, found = source(**batch)[real], model(**batch).logits[real]
    assert_same(found.detach(), expected.detach())

    weight = torch.randn(expected.shape)
    for logits in (expected, found):
        (logits * weight).sum().backward()
    assert_same_gradients(model, source, from_torch)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_the_model_agrees_with_the_encoders_of_transformers(
    tiny_config: Callable[..., Any], randomize: Callable[..., Any], batch: dict[str, torch.Tensor], family: str
) -> None:
    theirs, to_ours = FAMILIES[family]
    source = randomize(theirs())
    model = SequenceEncoderModel(tiny_config(family)).eval()
    model.load_state_dict(to_ours(dict(source.named_parameters())))
    if family == "bert":
        types = torch.randint(0, 2, batch["input_ids"].shape)
        batch = {**batch, "token_type_ids": types}
    expected, found = source(**batch), model(**batch)
    real = batch["attention_mask"] == 1
    pairs = [(found.last_hidden_state[real], expected.last_hidden_state[real])]
    if family == "bert":
        pairs.append((found.pooler_output, expected.pooler_output))
    losses = [torch.zeros(()), torch.zeros(())]
    for outputs in pairs:
        assert_same(*(output.detach() for output in outputs))
        weight = torch.randn(outputs[0].shape)
        losses = [loss + (output * weight).sum() for loss, output in zip(losses, outputs, strict=True)]
    for loss in losses:
        loss.backward()
    assert_same_gradients(model, source, to_ours)


def tiny_bert() -> PreTrainedModel:
    return BertModel(
        BertConfig(
            vocab_size=VOCAB,
            hidden_size=HIDDEN,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=INNER,
            max_position_embeddings=64,
            attn_implementation="eager",
        )
    )


def tiny_modernbert() -> PreTrainedModel:
    return ModernBertModel(
        ModernBertConfig(
            vocab_size=VOCAB,
            hidden_size=HIDDEN,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=INNER,
            local_attention=6,  # both sides together: 3 tokens on each
            attn_implementation="eager",
            **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0),
        )
    )


FAMILIES: dict[str, tuple[Callable[[], PreTrainedModel], Callable[[Tensors], Tensors]]] = {
    "bert": (tiny_bert, from_bert),
    "modernbert": (tiny_modernbert, from_modernbert),
}


def test_the_default_configuration_equals_the_default_layer_of_torch() -> None:
    config = SequenceEncoderConfig()
    layer = nn.TransformerEncoderLayer(config.hidden_size, config.num_attention_heads)
    assert config.intermediate_size == layer.linear1.out_features
    assert config.norm_eps == layer.norm1.eps
    assert config.hidden_act == layer.activation.__name__
    assert (config.norm_placement == "pre") == layer.norm_first
    assert config.hidden_dropout == layer.dropout1.p == layer.dropout2.p
    assert config.mlp_dropout == layer.dropout.p
    assert config.attention_dropout == layer.self_attn.dropout
    assert config.attention_bias == (layer.self_attn.in_proj_bias is not None)
    assert config.mlp_bias == (layer.linear1.bias is not None)
    assert (config.position_embedding, config.scale_embeddings) == ("sinusoidal", True)
    assert (config.embedding_norm, config.tie_word_embeddings, config.prediction_head) == (False, False, "linear")
    assert set(config.layer_types) == {"full_attention"}


def test_matrices_are_initialized_xavier_uniform_and_biases_to_zero(tiny_config: Callable[..., Any]) -> None:
    model = SequenceEncoderForMaskedLM(tiny_config("vanilla"))
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            bound = math.sqrt(6 / sum(parameter.shape))
            # Uniform between the bounds: none outside, some close to them, and half of them in the inner half.
            assert 0.95 * bound < float(parameter.abs().max()) <= bound, name
            inner = (parameter.abs() < bound / 2).float().mean()
            assert 0.4 < float(inner) < 0.6, name
        else:
            wanted = torch.ones_like(parameter) if name.endswith("norm.weight") else torch.zeros_like(parameter)
            assert torch.equal(parameter, wanted), name
