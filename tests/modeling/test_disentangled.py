"""Disentangled attention and the convolution of DeBERTa: every way to compute them, their limits and memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

from sequence_encoder import SequenceEncoderConfig, SequenceEncoderModel, convert
from sequence_encoder.modeling.attention import disentangled_scores, grouped
from sequence_encoder.modeling.attention.disentangled import DisentangledBias
from sequence_encoder.tests.fixtures.comparisons import assert_same

Build = Callable[..., Any]
LENGTHS = [13, 2, 13, 7]
CONVOLUTION = {"conv_kernel_size": 3, "conv_act": "gelu"}
# Buckets, separate projections, one of the two products, and a convolution.
VARIANTS: dict[str, dict[str, Any]] = {
    "shared": {"position_buckets": 6},
    "separate": {"share_att_key": False, "position_buckets": None, "max_relative_positions": 5},
    "c2p": {"pos_att_type": ["c2p"], "norm_rel_ebd": "none"},
    "p2c": {"pos_att_type": ["p2c"], "share_att_key": False, **CONVOLUTION},
}
# No disentangled attention.
WITHOUT_DISTANCES = {"pos_att_type": None, "share_att_key": False, "position_buckets": None, "norm_rel_ebd": "none"}
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def deberta(tiny_config: Build, variant: str, **overrides: Any) -> SequenceEncoderConfig:
    return tiny_config("deberta-v3", **{**VARIANTS[variant], **overrides})


@pytest.mark.parametrize("farthest", [512, 200])
@pytest.mark.parametrize("buckets", [256, 8, 3, 2])
def test_buckets_equal_those_of_transformers(tiny_config: Build, buckets: int, farthest: int) -> None:
    config = tiny_config("deberta-v3", position_buckets=buckets, max_relative_positions=farthest)
    bias = DisentangledBias(config)
    for length in (3, 600):
        rows, row_of = bias(length, torch.device("cpu"))
        distances = torch.arange(-length, length + 1)
        expected = make_log_bucket_position(distances, buckets, farthest).long() + buckets
        embeddings = bias.norm(bias.table.weight)[expected.clamp(0, 2 * buckets - 1)]
        assert_same(rows[row_of], embeddings)
        assert len(rows) == min(2 * buckets, 2 * length + 1)


@every_variant
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("backend", ["sdpa", "eager"])
def test_training_has_the_outputs_and_gradients_of_padded_attention(
    tiny_config: Build, randomize: Build, ragged: Build, variant: str, side: str, backend: str
) -> None:
    model = randomize(SequenceEncoderModel(deberta(tiny_config, variant)))
    ids, mask = ragged(LENGTHS, side)
    weight = torch.randn(*ids.shape, model.config.hidden_size) * mask[..., None]

    def run(training: bool, implementation: str, **options: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
        model.set_attn_implementation(implementation)
        model.train(training)
        output = model(ids, attention_mask=mask, **options).last_hidden_state
        return output.detach(), list(torch.autograd.grad((output * weight).sum(), trained))

    trained = [parameter for name, parameter in model.named_parameters() if "pooler" not in name]
    expected, expected_gradients = run(False, "eager", output_hidden_states=True)
    for training in (False, True):
        found, gradients = run(training, backend)
        assert_same(found, expected)
        for one, other in zip(gradients, expected_gradients, strict=True):
            assert_same(one, other, 1e-4)


def test_dropout_has_correct_gradients(tiny_config: Build, randomize: Build, ragged: Build) -> None:
    """With the same random numbers, a small step along the gradient changes the loss as the gradient says."""
    config = deberta(tiny_config, "shared", attention_dropout=0.3, hidden_dropout=0.2)
    model = randomize(SequenceEncoderModel(config)).double().train()
    ids, mask = ragged(LENGTHS)
    weight = torch.randn(*ids.shape, config.hidden_size, dtype=torch.double)
    parameters = [parameter for name, parameter in model.named_parameters() if "self_attn" in name or "bias" in name]

    def loss() -> torch.Tensor:
        torch.manual_seed(1)
        return (model(ids, attention_mask=mask).last_hidden_state * weight).sum()

    gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
    steps = [torch.randn_like(parameter) for parameter in parameters]
    slope = sum(
        (step * gradient).sum() for step, gradient in zip(steps, gradients, strict=True) if gradient is not None
    )
    values = []
    for sign in (1e-6, -2e-6):
        with torch.no_grad():
            for parameter, step in zip(parameters, steps, strict=True):
                parameter.add_(sign * step)
        values.append(loss().detach())
    torch.testing.assert_close((values[0] - values[1]) / 2e-6, slope, rtol=1e-6, atol=1e-6)


@every_variant
@pytest.mark.parametrize("products", [1, 200, 2000])
def test_chunks_change_nothing(
    tiny_config: Build, randomize: Build, ragged: Build, monkeypatch: pytest.MonkeyPatch, variant: str, products: int
) -> None:
    model = randomize(SequenceEncoderModel(deberta(tiny_config, variant)))
    ids, mask = ragged(LENGTHS)
    options = {"attention_mask": mask, "output_attentions": True}
    expected = [model(ids, attention_mask=mask).last_hidden_state, *model(ids, **options).attentions]
    monkeypatch.setattr(disentangled_scores, "PRODUCTS_AT_ONCE", products)
    found = [model(ids, attention_mask=mask).last_hidden_state, *model(ids, **options).attentions]
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)


class _Largest(TorchDispatchMode):
    """Records the number of elements of the largest tensor that an operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_does_not_grow_with_the_batch(
    tiny_config: Build, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    # In bfloat16, short sequences are grouped, and only those.
    monkeypatch.setattr(grouped, "LONGEST", 50)
    monkeypatch.setattr(disentangled_scores, "PRODUCTS_AT_ONCE", 1000)
    config = deberta(tiny_config, "shared", vocab_size=9, intermediate_size=8, max_position_embeddings=99)
    model = SequenceEncoderModel(config).eval().to(dtype)
    for options in ({}, {"output_hidden_states": True}):
        with torch.no_grad(), _Largest() as largest:
            model(torch.ones(30, 99).long(), **options)
        # All scores of all texts would be four times as many as their queries, keys and values.
        assert largest.elements < 30 * config.num_attention_heads * 99 * 99 / 3


@pytest.mark.parametrize("path", [{}, {"output_hidden_states": True}], ids=["packed", "padded"])
@every_variant
def test_documents_and_gaps_equal_those_of_each_text_alone(
    tiny_config: Build, randomize: Build, variant: str, path: dict[str, Any]
) -> None:
    model = randomize(SequenceEncoderModel(deberta(tiny_config, variant, **CONVOLUTION)))
    ids = torch.randint(1, 97, (1, 12))
    alone = [model(ids[:, :5]).last_hidden_state, model(ids[:, 5:]).last_hidden_state]
    positions = torch.cat([torch.arange(5), torch.arange(7)])[None]
    found = model(ids, position_ids=positions, **path).last_hidden_state
    assert_same(found, torch.cat(alone, 1))

    theirs = convert(model, to="deberta-v2", base_model=True)
    mask = torch.tensor([[1, 1, 0, 1, 1, 1, 0, 0, 1, 1, 1, 0]])
    expected = theirs(ids, attention_mask=mask).last_hidden_state
    found = model(ids, attention_mask=mask, **path).last_hidden_state
    assert_same(found[mask.bool()], expected[mask.bool()])


@every_variant
def test_4d_masks_hide_tokens(tiny_config: Build, randomize: Build, variant: str) -> None:
    model = randomize(SequenceEncoderModel(deberta(tiny_config, variant, conv_kernel_size=0)))
    ids = torch.randint(1, 97, (2, 9))
    visible = torch.block_diag(torch.ones(4, 4), torch.ones(5, 5))[None, None].expand(2, 1, 9, 9)
    expected = model(ids, position_ids=torch.cat([torch.arange(4), torch.arange(5)])[None]).last_hidden_state
    for mask in (visible.bool(), (1 - visible) * torch.finfo(torch.float32).min):
        assert_same(model(ids, attention_mask=mask).last_hidden_state, expected)


def test_4d_masks_of_each_head_may_be_split(
    tiny_config: Build, randomize: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = randomize(SequenceEncoderModel(deberta(tiny_config, "shared")))
    ids, mask = torch.randint(1, 97, (2, 9)), torch.rand(2, 3, 9, 9) > 0.4
    mask |= torch.eye(9).bool()
    expected = model(ids, attention_mask=mask).last_hidden_state
    monkeypatch.setattr(disentangled_scores, "PRODUCTS_AT_ONCE", 200)
    assert_same(model(ids, attention_mask=mask).last_hidden_state, expected)


def test_the_convolution_counts_tokens_that_the_mask_leaves_out(tiny_config: Build, randomize: Build) -> None:
    config = tiny_config("deberta-v3", position_bias=None, **WITHOUT_DISTANCES, **CONVOLUTION)
    model = randomize(SequenceEncoderModel(config))
    ids, mask = torch.randint(1, 97, (1, 9)), torch.tensor([[1, 1, 1, 0, 0, 1, 1, 1, 1]])
    expected = convert(model, to="deberta-v2", base_model=True)(ids, attention_mask=mask).last_hidden_state
    assert_same(model(ids, attention_mask=mask).last_hidden_state[mask.bool()], expected[mask.bool()])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pos_att_type": []}, "pos_att_type must have 'c2p', 'p2c' or both"),
        ({"pos_att_type": ["p2p"]}, "pos_att_type.*p2p"),
        ({"position_buckets": 1}, "position_buckets must be at least 2, or None, got 1"),
        ({"max_relative_positions": 0}, "max_relative_positions must be at least 1, or None, got 0"),
        ({"num_key_value_heads": 1}, "needs num_key_value_heads=None, got 1"),
        ({"position_bias": None}, "pos_att_type=.* needs position_bias='disentangled', got None"),
        ({"position_bias": "alibi", "pos_att_type": None, "norm_rel_ebd": "none"}, "share_att_key=True needs"),
        ({"conv_kernel_size": 4}, "conv_kernel_size must be 0 or an odd number, got 4"),
        ({"conv_kernel_size": -1}, "conv_kernel_size must be 0 or an odd number, got -1"),
        ({"conv_kernel_size": 3, "num_hidden_groups": 1}, "needs num_hidden_groups=None, got 1"),
        ({"max_relative_positions": 10**12}, "max_relative_positions=1000000000000"),
    ],
)
def test_impossible_fields_are_rejected(tiny_config: Build, fields: dict[str, Any], message: str) -> None:
    with pytest.raises((StrictDataclassError, ValueError), match=message):
        tiny_config("deberta-v3", **{"position_buckets": None, **fields})


def test_both_products_are_the_default(tiny_config: Build) -> None:
    assert tiny_config("vanilla", position_bias="disentangled").pos_att_type == ["c2p", "p2c"]
