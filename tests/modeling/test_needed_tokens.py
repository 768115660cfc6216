"""The last layer computes only the tokens that are needed, and these are unchanged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from sequence_encoder import (
    PRESETS,
    SequenceEncoderForMaskedLM,
    SequenceEncoderForMultipleChoice,
    SequenceEncoderForPreTraining,
    SequenceEncoderForSequenceClassification,
    SequenceEncoderModel,
)

Build = Callable[..., Any]
LENGTHS = [9, 4, 6, 9]


def last_layer_sizes(model: Any) -> list[int]:
    """Return a list that collects how many tokens each call of the last feed-forward network gets."""
    trunk = model if isinstance(model, SequenceEncoderModel) else model.model
    sizes: list[int] = []
    trunk.layers[-1].mlp.register_forward_pre_hook(lambda module, args: sizes.append(args[0].shape[:-1].numel()))
    return sizes


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_only_needed_tokens_are_computed_and_they_are_unchanged(
    tiny_config: Build, randomize: Build, ragged: Build, preset: str, side: str, attention: str
) -> None:
    config = tiny_config(preset)
    config._attn_implementation = attention
    model = randomize(SequenceEncoderModel(config, add_pooling_layer=False))
    ids, mask = ragged(LENGTHS, side)
    expected = model(ids, mask).last_hidden_state
    needed = (torch.rand(ids.shape) < 0.4) & (mask == 1)
    sizes = last_layer_sizes(model)
    found = model(ids, mask, needed=needed).last_hidden_state
    torch.testing.assert_close(found[needed], expected[needed], rtol=0, atol=1e-5)
    assert not found[~needed].any()
    nothing = model(ids, mask, needed=False).last_hidden_state
    assert not nothing.any()
    assert nothing.shape == expected.shape
    torch.testing.assert_close(model(ids, mask, needed=mask == 1).last_hidden_state, expected)
    assert sizes == [int(needed.sum()), 0, sum(LENGTHS)]


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("side", ["right", "left", None])
def test_the_pooler_computes_the_tokens_that_it_needs(
    tiny_config: Build, randomize: Build, ragged: Build, pooling: str, side: str | None
) -> None:
    model = randomize(SequenceEncoderModel(tiny_config("bert", pooling=pooling)))
    ids, mask = ragged(LENGTHS if side else [9] * 4, side or "right")
    if side:
        mask[1] = 0  # A row of only padding.
    expected = model(ids, mask)
    sizes = last_layer_sizes(model)
    found = model(ids, mask, needed=False)
    torch.testing.assert_close(found.pooler_output, expected.pooler_output, rtol=0, atol=1e-5)
    assert sizes == [(mask.any(1).sum() if pooling == "cls" else mask.sum()).item()]


@pytest.mark.parametrize("model_class", [SequenceEncoderForSequenceClassification, SequenceEncoderForMultipleChoice])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_sequence_classifiers_keep_the_gradients_of_the_padded_path(
    tiny_config: Build, ragged: Build, model_class: type[Any], pooling: str
) -> None:
    model = model_class(tiny_config("bert", pooling=pooling, num_labels=3)).train()
    ids, mask = ragged(LENGTHS)
    labels = torch.tensor([0, 2, 1, 1])
    if model_class is SequenceEncoderForMultipleChoice:
        ids, mask, labels = ids.view(2, 2, -1), mask.view(2, 2, -1), torch.tensor([0, 1])
    sizes = last_layer_sizes(model)
    found = []
    for padded in (False, True):  # The padded path computes all tokens.
        model.zero_grad()
        model(ids, mask, labels=labels, output_hidden_states=padded).loss.backward()
        found.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in found[1].items():
        torch.testing.assert_close(found[0][name], gradient, rtol=0, atol=1e-5)
    assert sizes == [4 if pooling == "cls" else sum(LENGTHS), 4 * 9]


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("model_class", [SequenceEncoderForMaskedLM, SequenceEncoderForPreTraining])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_masked_lm_heads_keep_the_gradients_of_the_padded_path(
    tiny_config: Build, ragged: Build, preset: str, model_class: type[Any], checkpointed: bool
) -> None:
    model = model_class(tiny_config(preset, pooling="cls")).train()
    if checkpointed:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    ids, mask = ragged(LENGTHS)
    masked = (torch.rand(ids.shape) < 0.4) & (mask == 1)
    masked[:, 0] = False
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(~masked, -100)}
    if model_class is SequenceEncoderForPreTraining:
        inputs["sentence_order_label"] = torch.tensor([0, 1, 1, 0])
    sizes = last_layer_sizes(model)
    model(**inputs).loss.backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    firsts = len(LENGTHS) if model_class is SequenceEncoderForPreTraining else 0
    assert sizes[0] == int(masked.sum()) + firsts
    model.zero_grad()
    model(**inputs, output_hidden_states=True).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=0, atol=1e-5)


def test_hooks_on_the_encoder_of_a_classifier_see_all_tokens(
    tiny_config: Build, randomize: Build, ragged: Build
) -> None:
    model = randomize(SequenceEncoderForSequenceClassification(tiny_config("bert", pooling="cls", num_labels=3)))
    ids, mask = ragged(LENGTHS)
    seen: list[torch.Tensor] = []
    model.model.register_forward_hook(lambda module, args, output: seen.append(output.last_hidden_state))
    model(ids, mask)
    torch.testing.assert_close(seen[0], model.model(ids, mask).last_hidden_state)


def test_hidden_states_that_were_requested_once_do_not_make_later_batches_compute_all_tokens(
    tiny_config: Build, randomize: Build, ragged: Build
) -> None:
    model = randomize(SequenceEncoderForSequenceClassification(tiny_config("bert", pooling="cls", num_labels=3)))
    ids, mask = ragged(LENGTHS)
    sizes = last_layer_sizes(model)
    before = model(ids, mask).logits
    model(ids, mask, output_hidden_states=True)
    torch.testing.assert_close(model(ids, mask).logits, before)
    assert sizes == [len(LENGTHS), ids.numel(), len(LENGTHS)]


def test_a_hook_may_skip_the_last_layer(tiny_config: Build, randomize: Build, ragged: Build) -> None:
    model = randomize(SequenceEncoderModel(tiny_config("bert", pooling="cls")))
    ids, mask = ragged(LENGTHS)
    model.layers[-1].register_forward_hook(lambda layer, args, output: args[0])
    torch.testing.assert_close(model(ids, mask, needed=False).pooler_output, model(ids, mask).pooler_output)


@pytest.mark.parametrize(
    ("needed", "words"),
    [
        (torch.ones(2, 5), ["torch.float32", "(2, 5)"]),
        (torch.ones(2, 4, dtype=torch.bool), ["(2, 4)", "(2, 5)"]),
        ([[True] * 5] * 2, ["needed", "list"]),
    ],
)
def test_needed_must_fit_the_batch(tiny_config: Build, needed: Any, words: list[str]) -> None:
    model = SequenceEncoderModel(tiny_config())
    with pytest.raises(ValueError, match="needed") as error:
        model(torch.randint(1, 97, (2, 5)), needed=needed)
    for word in words:
        assert word in str(error.value)
