"""The convolution before the first layer of a pre-norm model; test_disentangled.py has DeBERTa's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from sequence_encoder import SequenceEncoderModel
from sequence_encoder.tests.fixtures.comparisons import assert_same

LENGTHS = [11, 1, 2, 7]
PATHS = {"packed": {}, "padded": {"output_hidden_states": True}}
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


@pytest.fixture(params=["linear", "gelu"])
def model(request: pytest.FixtureRequest, tiny_config: Callable[..., Any], randomize: Callable[..., Any]) -> Any:
    return randomize(SequenceEncoderModel(tiny_config("modernbert", conv_kernel_size=5, conv_act=request.param)))


@every_path
def test_the_first_layer_sees_the_tokens_around_each_token(model: Any, path: dict[str, bool]) -> None:
    ids, seen, added = torch.randint(1, 97, (1, 9)), [], []
    first, dense = model.layers[0], model.layers[0].convolution.dense
    first.register_forward_pre_hook(lambda layer, given: seen.append(given[0]))
    first.attn_norm.register_forward_pre_hook(lambda norm, given: added.append(given[0]))
    model(ids, **path)
    weight = dense.weight.unflatten(1, (5, -1)).transpose(1, 2)
    around = F.conv1d(seen[0].transpose(1, 2), weight, dense.bias, padding=2).transpose(1, 2)
    expected = seen[0] + (F.gelu(around) if model.config.conv_act == "gelu" else around)
    assert_same(added[0], expected)
    # The norm of the embeddings has not normalised it.
    assert isinstance(first.attn_norm, torch.nn.LayerNorm)


@every_path
@pytest.mark.parametrize("side", ["right", "left"])
def test_batches_and_documents_equal_each_text_alone(
    model: Any, ragged: Callable[..., Any], path: dict[str, bool], side: str
) -> None:
    ids, mask = ragged(LENGTHS, side)
    texts = [row[real.bool()] for row, real in zip(ids, mask, strict=True)]
    alone = torch.cat([model(text[None]).last_hidden_state[0] for text in texts])
    assert_same(model(ids, attention_mask=mask, **path).last_hidden_state[mask.bool()], alone)
    positions = torch.cat([torch.arange(len(text)) for text in texts])[None]
    assert_same(model(torch.cat(texts)[None], position_ids=positions, **path).last_hidden_state[0], alone)


def test_training_without_padding_has_the_gradients_of_padded_training(model: Any, ragged: Callable[..., Any]) -> None:
    ids, mask = ragged(LENGTHS)
    weight = torch.randn(*ids.shape, model.config.hidden_size) * mask[..., None]
    trained = [parameter for name, parameter in model.named_parameters() if "pooler" not in name]
    model.train()
    found, expected = (
        torch.autograd.grad((model(ids, attention_mask=mask, **path).last_hidden_state * weight).sum(), trained)
        for path in PATHS.values()
    )
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other, 1e-4)


def test_one_layer_may_skip_tokens_but_not_their_neighbours(
    tiny_config: Callable[..., Any], randomize: Callable[..., Any], ragged: Callable[..., Any]
) -> None:
    config = tiny_config("modernbert", conv_kernel_size=3, num_hidden_layers=1, layer_types=["full_attention"])
    model = randomize(SequenceEncoderModel(config))
    ids, mask = ragged(LENGTHS)
    needed = torch.zeros_like(mask, dtype=torch.bool)
    needed[:, 0] = True
    expected = model(ids, attention_mask=mask).last_hidden_state[needed]
    assert_same(model(ids, attention_mask=mask, needed=needed).last_hidden_state[needed], expected)


def test_float64_is_not_rounded_under_autocast(model: Any) -> None:
    ids = torch.randint(1, 97, (2, 9))
    expected = model.double()(ids).last_hidden_state
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(model(ids).last_hidden_state, expected)
