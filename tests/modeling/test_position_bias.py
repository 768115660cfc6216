"""Biases that depend on the distance of two tokens: their formulas, gradients, limits and memory."""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from sequence_encoder import SequenceEncoderConfig, SequenceEncoderModel
from sequence_encoder.modeling.attention.dispatch import POSITION_BIASES
from sequence_encoder.tests.fixtures.comparisons import assert_same
from sequence_encoder.tests.fixtures.forked_python import forked_python

Build = Callable[..., Any]
LENGTHS = [13, 2, 13, 7]


def biased(tiny_config: Build, bias: str, **overrides: Any) -> SequenceEncoderConfig:
    return tiny_config("vanilla", position_bias=bias, position_embedding="none", **overrides)


@pytest.mark.parametrize("max_distance", [128, 20])
@pytest.mark.parametrize("buckets", [32, 8])
def test_buckets_are_those_of_mpnet(tiny_config: Build, buckets: int, max_distance: int) -> None:
    config = biased(
        tiny_config,
        "bucketed",
        relative_attention_num_buckets=buckets,
        relative_attention_max_distance=max_distance,
    )
    distances = torch.arange(-600, 601)
    found = POSITION_BIASES["bucketed"](config).buckets(distances)  # type: ignore[union-attr]
    assert torch.equal(found, MPNetEncoder.relative_position_bucket(distances, buckets, max_distance))


@pytest.mark.parametrize(("heads", "slopes"), [(4, [2**-2, 2**-4, 2**-6, 2**-8]), (3, [2**-4, 2**-8, 2**-2])])
def test_alibi_has_the_slopes_of_its_paper(tiny_config: Build, heads: int, slopes: list[float]) -> None:
    config = biased(tiny_config, "alibi", hidden_size=24, num_attention_heads=heads)
    (found,) = POSITION_BIASES["alibi"](config)(5, torch.device("cpu"))  # type: ignore[misc]
    index = torch.arange(5)
    assert_same(found, -torch.tensor(slopes)[:, None, None] * (index - index[:, None]).abs())


@pytest.mark.parametrize("bias", ["bucketed", "alibi"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_outputs_and_gradients_are_those_of_biased_scores(
    tiny_config: Build, randomize: Build, ragged: Build, bias: str, side: str
) -> None:
    """Compare packed, padded and trained models with attention that is written out for one text at a time."""
    model = randomize(SequenceEncoderModel(biased(tiny_config, bias, num_hidden_layers=1)))
    ids, mask = ragged(LENGTHS, side)
    weight = torch.randn(*ids.shape, model.config.hidden_size) * mask[..., None]

    def run(training: bool, **options: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
        model.train(training)
        output = model(ids, attention_mask=mask, **options).last_hidden_state
        return output.detach(), list(torch.autograd.grad((output * weight).sum(), list(model.parameters())))

    attention, layer = model.layers[0].self_attn, model.layers[0]
    rows = []
    for row, real in zip(ids, mask.bool(), strict=True):
        hidden = model.embeddings(model.embed_tokens(row[real][None]), None, torch.zeros(1, 1).long())[0]
        query, key, value = attention.qkv_proj(hidden).unflatten(-1, (-1, *attention.group)).unbind(-2)
        scores = torch.einsum("qhc,khc->hqk", query, key) / math.sqrt(attention.head_dim)
        scores = scores + model.position_bias(len(hidden), hidden.device)[0]
        attended = attention.o_proj(torch.einsum("hqk,khc->qhc", scores.softmax(-1), value).flatten(1))
        hidden = layer.attn_norm(hidden + attended)
        rows.append(layer.mlp_norm(hidden + layer.mlp(hidden)))
    expected = torch.zeros_like(weight)
    expected[mask.bool()] = torch.cat(rows)
    expected_gradients = torch.autograd.grad((expected * weight).sum(), list(model.parameters()))
    for training in (False, True):
        for options in ({}, {"output_hidden_states": True}):
            found, found_gradients = run(training, **options)
            assert_same(found, expected.detach())
            for one, other in zip(found_gradients, expected_gradients, strict=True):
                assert_same(one, other, 1e-4)


def test_attention_weights_contain_the_bias(tiny_config: Build, randomize: Build) -> None:
    model = randomize(SequenceEncoderModel(biased(tiny_config, "alibi")))
    near, far = torch.tensor([0, 1]), torch.tensor([0, 12])
    for parameter in model.layers[0].self_attn.qkv_proj.parameters():
        parameter.data.zero_()
    weights = model(torch.arange(1, 14)[None], output_attentions=True).attentions[0][0]
    slopes = weights[:, near[0], near[1]].log() - weights[:, far[0], far[1]].log()
    assert_same(slopes, 11 * torch.tensor(model.position_bias.slopes))


@pytest.mark.parametrize("implementation", ["flex_attention", "flash_attention_2"])
@pytest.mark.parametrize("options", [{}, {"output_hidden_states": True}], ids=["packed", "padded"])
def test_backends_without_a_bias_are_rejected(tiny_config: Build, implementation: str, options: dict[str, Any]) -> None:
    model = SequenceEncoderModel(biased(tiny_config, "bucketed")).eval()
    model.config._attn_implementation = implementation
    with pytest.raises(ValueError, match=f"attn_implementation='{implementation}' does not support a position_bias"):
        model(torch.tensor([[1, 2, 3]]), **options)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"position_bias": "t5"}, "position_bias"),
        (
            {"position_bias": "alibi", "layer_types": ["sliding_attention"], "sliding_window": 3},
            "'full_attention' only",
        ),
        ({"relative_attention_num_buckets": 6}, "must be a multiple of 4, at least 4, got 6"),
        ({"relative_attention_max_distance": 8}, "above a quarter of relative_attention_num_buckets=32, got 8"),
    ],
)
def test_impossible_biases_are_rejected(tiny_config: Build, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(StrictDataclassError, match=message):
        tiny_config("vanilla", **fields)


def test_memory_does_not_grow_with_the_batch(tiny_config: Build) -> None:
    """One tensor of biases serves all texts, whatever their lengths."""
    model = SequenceEncoderModel(biased(tiny_config, "bucketed")).eval()
    sizes: list[int] = []
    model.position_bias.register_forward_hook(lambda module, args, output: sizes.append(output[0].numel()))
    mask = (torch.arange(40) < torch.tensor([40, 3, 17, 40, 25, 40])[:, None]).long()
    model(torch.ones(6, 40).long(), attention_mask=mask)
    assert sizes == [model.config.num_attention_heads * 40 * 40]


@pytest.mark.since("transformers", "5.18", "names the mesh of tensor parallelism")
def test_tensor_parallelism_gives_each_process_the_biases_of_its_heads(
    tiny_config: Build, randomize: Build, tmp_path: Path
) -> None:
    separate = {"share_att_key": False, "pos_att_type": ["p2c", "c2p"], "position_buckets": 6}
    configs = {
        "bucketed": biased(tiny_config, "bucketed", num_attention_heads=4, num_key_value_heads=2),
        "alibi": biased(tiny_config, "alibi", num_attention_heads=4),
        "disentangled": biased(tiny_config, "disentangled", num_attention_heads=4, **separate),
    }
    for name, config in configs.items():
        randomize(SequenceEncoderModel(config)).save_pretrained(tmp_path / name)
    script, rendezvous = Path(__file__).parents[1] / "fixtures" / "tensor_parallel_rank.py", tmp_path / "rendezvous"
    folders = [str(tmp_path / name) for name in configs]
    ranks = [
        subprocess.Popen(
            [forked_python(), str(script), str(rank), str(rendezvous), *folders],
            env={**os.environ, "OMP_NUM_THREADS": "1", "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    for rank in ranks:
        output, _ = rank.communicate(timeout=120)
        assert rank.returncode == 0, output
