"""The attention of one layer is what `output_attentions` returns, and rollout is a flow of all layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sequence_encoder import PRESETS, attention_of, explain
from sequence_encoder.tests.fixtures.explained_models import build


@pytest.mark.parametrize("preset", [*sorted(PRESETS), "shared layers"])
def test_attention_is_that_of_the_slow_path(tiny_config: Any, randomize: Any, preset: str) -> None:
    fields = {"num_hidden_groups": 1} if preset == "shared layers" else {}
    preset = "bert" if fields else preset
    model, tokenizer, texts = build(
        "label", lambda *given, **own: tiny_config(*given, **own, **fields), randomize, preset
    )
    expected = model(**tokenizer(texts, return_tensors="pt"), output_attentions=True).attentions
    for layer in (0, -1):
        found = attention_of(model, tokenizer, texts[0], layer=layer, heads=[2, 0])
        torch.testing.assert_close(found.weights, expected[layer][0, [2, 0]].detach(), rtol=1e-4, atol=1e-5)
    assert found.layer == 2
    assert found.tokens == tuple(tokenizer.convert_ids_to_tokens(tokenizer(texts[0])["input_ids"]))


def test_attention_of_a_long_text_is_that_of_the_text_alone(tiny_config: Any, randomize: Any) -> None:
    """The model adds copies of its first tokens to a long text."""
    model, tokenizer, texts = build("label", tiny_config, randomize, "modernbert")
    text = " ".join(texts * 91)
    expected = model(**tokenizer(text, return_tensors="pt"), output_attentions=True).attentions[1][0].detach()
    assert len(expected[0]) > 256
    assert len(expected[0]) % 16
    found = attention_of(model, tokenizer, text, layer=1, max_length=1000).weights
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_rollout_is_the_product_of_all_layers(tiny_config: Any, randomize: Any) -> None:
    model, tokenizer, texts = build("label", tiny_config, randomize)
    encoded = tokenizer(texts, return_tensors="pt")
    flow = torch.eye(encoded["input_ids"].shape[1])
    for layer in model(**encoded, output_attentions=True).attentions:
        flow = (layer[0].mean(0) + torch.eye(len(flow))) / 2 @ flow
    read = flow[0] if model.config.pooling == "cls" else flow.mean(0)
    (found,) = explain(model, tokenizer, texts, method="attention_rollout")
    expected = torch.zeros(len(found.words))
    for share, word in zip(read, encoded.word_ids(), strict=True):
        if word is not None:
            expected[word] += share.detach()
    torch.testing.assert_close(torch.tensor(found.scores), expected, rtol=1e-4, atol=1e-5)


def test_maps_of_long_texts_are_no_larger_than_a_screen(tiny_config: Any, randomize: Any) -> None:
    pytest.importorskip("matplotlib")
    model, tokenizer, texts = build("label", tiny_config, randomize, "modernbert")
    found = attention_of(model, tokenizer, " ".join(texts * 91), layer=1, heads=[0], max_length=1000)
    figure = found._figure()
    assert max(figure.get_size_inches()) < 10
    (axis,) = figure.axes
    assert 30 < len(axis.get_xticks()) < 65
    assert [label.get_text() for label in axis.get_xticklabels()] == [found.tokens[int(x)] for x in axis.get_xticks()]


def test_attention_without_weights_is_refused(tiny_config: Any, randomize: Any, monkeypatch: Any) -> None:
    model, tokenizer, texts = build("label", tiny_config, randomize)
    attention = model.base_model.layers[0].self_attn
    forward = attention.forward
    # As of implementations that take long to load.
    monkeypatch.setattr(attention, "forward", lambda *given, **options: (forward(*given, **options)[0], None))
    with pytest.raises(ValueError, match="attn_implementation 'sdpa' has no weights"):
        attention_of(model, tokenizer, texts[0], layer=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 3}, "layer must be from -3 to 2"),
        ({"layer": 0, "heads": [3]}, "heads must be"),
        ({"layer": 0, "heads": []}, "heads must be"),
    ],
)
def test_layers_and_heads_that_do_not_exist_are_refused(
    tiny_config: Any, randomize: Any, options: Any, message: str
) -> None:
    model, tokenizer, texts = build("label", tiny_config, randomize)
    with pytest.raises(ValueError, match=message):
        attention_of(model, tokenizer, texts[0], **options)
