"""Grouped queries: on every path, a model computes what it computes with a copy of keys and values for each query."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from sequence_encoder import SequenceEncoderModel
from sequence_encoder.modeling.attention import groups as attention_groups
from sequence_encoder.modeling.attention.banded import BandedAttention
from sequence_encoder.modeling.attention.grouped import GroupedAttention
from sequence_encoder.modeling.attention.self_attention import SelfAttention
from sequence_encoder.modeling.packing import PackedBatch
from sequence_encoder.tests.fixtures.comparisons import assert_same

Build = Callable[..., Any]
HEADS = 6
# The last ones are longer than a block of a band and its window.
LENGTHS = [5, 11, 1, 5, 3, 75, 141]
ROTARY = {"position_embedding": "rotary", "norm_placement": "pre", "norm": "rms_norm", "feed_forward": "glu"}
WINDOWED = {**ROTARY, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 3}
KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "windowed": WINDOWED,
    "bucketed": {"position_bias": "bucketed", "relative_attention_num_buckets": 8},
    "alibi": {"position_bias": "alibi", "position_embedding": "none"},
}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_count = pytest.mark.parametrize("keys", [1, 2, 3])
both_backends = pytest.mark.parametrize("backend", ["eager", "sdpa"])


@pytest.fixture
def pair(tiny_config: Build, randomize: Build) -> Build:
    """`pair(kind, keys, backend)`: a model with grouped queries, and the same one with a copy of each key and value."""

    def build(kind: str, keys: int, backend: str = "sdpa", **overrides: Any) -> tuple[Any, Any]:
        fields = {"num_attention_heads": HEADS, "max_position_embeddings": 150, **KINDS[kind], **overrides}
        grouped = randomize(SequenceEncoderModel(tiny_config(num_key_value_heads=keys, **fields)))
        copied = SequenceEncoderModel(tiny_config(**fields)).eval()
        copied.load_state_dict(
            {
                name: copied_keys(tensor, keys) if "qkv_proj" in name else tensor
                for name, tensor in grouped.state_dict().items()
            }
        )
        for model in (grouped, copied):
            model.set_attn_implementation(backend)
        return grouped, copied

    return build


def copied_keys(tensor: torch.Tensor, keys: int) -> torch.Tensor:
    """Weights or biases of `qkv_proj` with a key and a value for each query."""
    groups = tensor.unflatten(0, (keys, HEADS // keys + 2, -1))
    queries, key, value = groups[:, :-2], groups[:, -2:-1], groups[:, -1:]
    heads = [queries, key.expand_as(queries), value.expand_as(queries)]
    return torch.stack(heads, dim=2).flatten(0, 3)


def summed_keys(gradient: torch.Tensor, keys: int) -> torch.Tensor:
    """The gradient of grouped weights, given that of `copied_keys`."""
    heads = gradient.unflatten(0, (keys, HEADS // keys, 3, -1))
    return torch.cat([heads[:, :, 0], heads[:, :, 1:].sum(dim=1)], dim=1).flatten(0, 2)


def step(model: nn.Module, *batch: torch.Tensor, **kwargs: Any) -> dict[str, torch.Tensor]:
    """The outputs and the gradients of all parameters."""
    model.zero_grad()
    torch.manual_seed(3)
    output = model(*batch, **kwargs).last_hidden_state
    (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {"output": output.detach(), **found}


def assert_same_steps(grouped: dict[str, torch.Tensor], copied: dict[str, torch.Tensor], keys: int) -> None:
    assert grouped.keys() == copied.keys()
    for name, found in grouped.items():
        expected = summed_keys(copied[name], keys) if "qkv_proj" in name else copied[name]
        assert_same(found, expected, 2e-5)


@every_kind
@every_count
@both_backends
@pytest.mark.parametrize("path", [{}, {"output_hidden_states": True}], ids=["packed", "padded"])
def test_outputs_and_gradients_are_those_of_copied_keys(
    pair: Build, ragged: Build, kind: str, keys: int, backend: str, path: dict[str, bool]
) -> None:
    grouped, copied = pair(kind, keys, backend)
    batch = ragged(LENGTHS, "left")
    assert_same_steps(step(grouped, *batch, **path), step(copied, *batch, **path), keys)


@every_kind
@both_backends
def test_packed_and_padded_equal_one_text_at_a_time(pair: Build, ragged: Build, kind: str, backend: str) -> None:
    model, _ = pair(kind, 2, backend)
    ids, mask = ragged(LENGTHS)
    weight = torch.randn(*ids.shape, 24, generator=torch.Generator().manual_seed(1))
    texts = [model(row[kept == 1][None]).last_hidden_state[0] for row, kept in zip(ids, mask, strict=True)]
    (torch.cat(texts) * weight[mask == 1]).sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    for path in ({}, {"output_hidden_states": True}):
        model.zero_grad()
        found = model(ids, mask, **path).last_hidden_state
        assert_same(found[mask == 1], torch.cat(texts))
        (found * weight).sum().backward()
        for name, gradient in expected.items():
            assert_same(dict(model.named_parameters())[name].grad, gradient, 2e-5)


@every_kind
@every_count
@pytest.mark.parametrize("cost", [0, 10**9], ids=["alone", "together"])
def test_training_drops_the_same_weights_as_with_copied_keys(
    pair: Build, ragged: Build, monkeypatch: pytest.MonkeyPatch, kind: str, keys: int, cost: int
) -> None:
    monkeypatch.setattr(attention_groups, "GROUP_COST", cost)
    grouped, copied = (model.train() for model in pair(kind, keys, attention_dropout=0.4))
    batch = ragged([5, 11, 1, 5, 3])
    found = step(grouped, *batch)
    assert_same_steps(found, step(copied, *batch), keys)
    assert not torch.equal(found["output"], grouped.eval()(*batch).last_hidden_state)


@every_count
@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("biased", [False, True])
def test_training_in_groups_has_the_gradients_of_its_outputs(
    monkeypatch: pytest.MonkeyPatch, keys: int, window: int | None, biased: bool
) -> None:
    monkeypatch.setattr(attention_groups, "GROUP_COST", 200)
    mask = torch.arange(7)[None, :] < torch.tensor([3, 7, 1, 3, 6])[:, None]
    packed = PackedBatch.from_padded((5, 7), torch.device("cpu"), mask)
    module = nn.Module()
    module.is_causal = False
    sizes = [(1, 20, heads, 4) for heads in (HEADS, keys, keys)] + [(HEADS, 7, 7)] * biased
    inputs = [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in sizes]

    def attention(q: Any, k: Any, v: Any, *bias: Any, kind: Any = GroupedAttention, dropout: float = 0.4) -> Any:
        torch.manual_seed(7)
        return kind(packed)(module, sdpa_attention_forward, (q, k, v), window, *bias, dropout=dropout, scaling=0.5)

    assert torch.autograd.gradcheck(attention, inputs, fast_mode=True)
    if not (biased and window):  # A model has not both.
        found, expected = (attention(*inputs, kind=kind, dropout=0.0) for kind in (GroupedAttention, BandedAttention))
        torch.testing.assert_close(found, expected)


@every_count
@both_backends
def test_attention_weights_are_those_of_each_query(pair: Build, ragged: Build, keys: int, backend: str) -> None:
    grouped, copied = pair("windowed", keys, backend)
    batch = ragged([5, 11, 3])
    found, expected = (model(*batch, output_attentions=True).attentions for model in (grouped, copied))
    assert [weights.shape for weights in found] == [(3, HEADS, 11, 11)] * 3
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("mask_heads", [1, HEADS])
def test_a_4d_mask_may_have_one_for_each_query(pair: Build, mask_heads: int) -> None:
    grouped, copied = pair("full", 2)
    ids = torch.randint(1, 97, (2, 9))
    mask = torch.rand(2, mask_heads, 9, 9) < 0.7
    mask |= torch.eye(9, dtype=torch.bool)
    assert_same(grouped(ids, mask).last_hidden_state, copied(ids, mask).last_hidden_state)


def test_a_plain_split_gives_whole_groups(tiny_config: Build, randomize: Build) -> None:
    """What "colwise" of `qkv_proj` and "rowwise" of `o_proj` do on two ranks, of one group each."""
    config = tiny_config(num_attention_heads=HEADS, num_key_value_heads=2)
    config._attn_implementation = "sdpa"
    attention = randomize(SelfAttention(config, "full_attention"))
    hidden_states = torch.randn(2, 7, config.hidden_size)
    total = attention.o_proj.bias.expand(2, 7, -1)
    for rank in range(2):
        shard = copy.deepcopy(attention)
        shard.o_proj.bias = None
        for layer, name, dim in (("qkv_proj", "weight", 0), ("qkv_proj", "bias", 0), ("o_proj", "weight", 1)):
            whole = getattr(getattr(attention, layer), name)
            setattr(getattr(shard, layer), name, nn.Parameter(whole.chunk(2, dim)[rank]))
        total = total + shard(hidden_states)[0]
    torch.testing.assert_close(total, attention(hidden_states)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("keys", [0, -1, 4, 12, 10**12])
def test_keys_must_divide_queries(tiny_config: Build, keys: int) -> None:
    with pytest.raises(
        StrictDataclassError, match=f"num_key_value_heads must divide num_attention_heads=6, got {keys}"
    ):
        tiny_config(num_attention_heads=HEADS, num_key_value_heads=keys)


def test_the_size_of_a_head_follows_from_the_others(tiny_config: Build) -> None:
    assert tiny_config(head_dim=8).head_dim == 8
    with pytest.raises(ValueError, match=r"head_dim=5 is not supported.*hidden_size=24 / num_attention_heads=3"):
        tiny_config(head_dim=5)
