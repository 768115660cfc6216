"""Bad input raises an error that names the argument, its value and the allowed values, before any layer runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from sequence_encoder import (
    SequenceEncoderForMaskedLM,
    SequenceEncoderForMultipleChoice,
    SequenceEncoderForPreTraining,
    SequenceEncoderForQuestionAnswering,
    SequenceEncoderForSequenceClassification,
    SequenceEncoderForTokenClassification,
    SequenceEncoderModel,
)

Build = Callable[..., Any]

BATCH, LENGTH = 2, 5
VOCABULARY, HIDDEN, LONGEST, TYPES, CLASSES = 97, 24, 64, 2, 3


def ids(*shape: int) -> torch.Tensor:
    return torch.arange(1, 1 + torch.Size(shape or (BATCH, LENGTH)).numel()).view(shape or (BATCH, LENGTH))


def with_value(value: float, *shape: int) -> torch.Tensor:
    """Return zeros with one other value in the last row."""
    tensor = torch.zeros(shape or (BATCH, LENGTH), dtype=torch.long if isinstance(value, int) else torch.float)
    tensor[-1:].flatten()[0] = value
    return tensor


def case_name(value: Any) -> str:
    """Return a part of a test id: the arguments, the parts of the message, or the head."""
    return value.__name__ if isinstance(value, type) else "+".join(value)


def assert_rejected(model: torch.nn.Module, arguments: dict[str, Any], expected: list[str]) -> None:
    """Check that a call raises a ValueError with all expected parts before any layer runs."""
    layers_run: list[Any] = []
    hook = model.get_submodule(model.base_model_prefix if hasattr(model, "model") else "").layers[0]
    handle = hook.register_forward_pre_hook(lambda module, given: layers_run.append(module))
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the message is checked below)
        model(**arguments)
    handle.remove()
    assert [part for part in expected if part not in str(error.value)] == [], str(error.value)
    assert layers_run == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"input_ids": with_value(97)}, ["input_ids", "97", "0 to 96", "vocab_size"]),
        ({"input_ids": with_value(-3)}, ["input_ids", "-3", "0 to 96", "vocab_size"]),
        ({"input_ids": ids(LENGTH)}, ["input_ids", "(batch, sequence)", "(5,)"]),
        ({"input_ids": ids(1, 2, 5)}, ["input_ids", "(batch, sequence)", "(1, 2, 5)"]),
        ({"input_ids": ids().float()}, ["input_ids", "int32 or int64", "float32"]),
        *(
            ({"input_ids": ids(), **{name: ids().to(dtype)}}, [name, "int32 or int64", str(dtype)])
            for name in ("input_ids", "token_type_ids", "position_ids")
            for dtype in (torch.bool, torch.uint8, torch.int16, torch.float64)
        ),
        *(
            ({"input_ids": ids(), **{name: ids().tolist()}}, [name, "tensor", "list"])
            for name in ("input_ids", "token_type_ids", "position_ids")
        ),
        ({"inputs_embeds": torch.zeros(2, 5, 24).tolist()}, ["inputs_embeds", "tensor", "list"]),
        ({"inputs_embeds": torch.zeros(2, 5, 24).double()}, ["inputs_embeds", "torch.float32", "torch.float64"]),
        ({"input_ids": ids(0, 5)}, ["empty", "(0, 5)", "at least 1"]),
        ({"input_ids": ids(2, 0)}, ["empty", "(2, 0)", "at least 1"]),
        ({}, ["input_ids", "inputs_embeds", "neither"]),
        ({"input_ids": ids(), "inputs_embeds": torch.zeros(2, 5, 24)}, ["input_ids", "inputs_embeds", "both"]),
        ({"inputs_embeds": torch.zeros(2, 5, 23)}, ["inputs_embeds", "hidden_size=24", "(2, 5, 23)"]),
        ({"inputs_embeds": torch.zeros(5, 24)}, ["inputs_embeds", "(batch, sequence, hidden_size=24)", "(5, 24)"]),
        ({"inputs_embeds": torch.zeros(0, 5, 24)}, ["empty", "(0, 5)", "at least 1"]),
        ({"input_ids": ids(), "attention_mask": torch.ones(2, 4)}, ["attention_mask", "(2, 5)", "(2, 4)"]),
        ({"input_ids": ids(), "attention_mask": torch.ones(1, 5)}, ["attention_mask", "(2, 5)", "(1, 5)"]),
        ({"input_ids": ids(), "attention_mask": torch.ones(2, 5, 5)}, ["attention_mask", "(2, 5)", "(2, 5, 5)"]),
        ({"input_ids": ids(), "attention_mask": torch.ones(2, 1, 1, 5)}, ["attention_mask", "5, 5)", "(2, 1, 1, 5)"]),
        ({"input_ids": ids(), "attention_mask": [[1] * 5] * 2}, ["attention_mask", "(2, 5)", "list"]),
        ({"input_ids": ids(), "attention_mask": torch.ones(2, 2, 5, 5)}, ["attention_mask", "1 or 3", "(2, 2, 5, 5)"]),
        ({"input_ids": ids(), "attention_mask": torch.ones(2, 1, 5, 5)}, ["attention_mask", "1.0", "bool or integer"]),
        ({"input_ids": ids(), "attention_mask": with_value(-1e4)}, ["attention_mask", "-10000.0", "0", "1", "4-D"]),
        ({"input_ids": ids(), "attention_mask": with_value(float("nan"))}, ["attention_mask", "nan", "0", "1"]),
        ({"input_ids": ids(), "token_type_ids": with_value(2)}, ["token_type_ids", "2", "0 to 1", "type_vocab_size"]),
        ({"input_ids": ids(), "token_type_ids": with_value(-1)}, ["token_type_ids", "-1", "0 to 1"]),
        ({"input_ids": ids(), "token_type_ids": with_value(0, 5, 2)}, ["token_type_ids", "(2, 5)", "(5, 2)"]),
        ({"input_ids": ids(), "position_ids": ids(5, 2)}, ["position_ids", "(2, 5)", "(5, 2)"]),
        ({"input_ids": ids(), "position_ids": ids(1, 4)}, ["position_ids", "(2, 5)", "(1, 4)"]),
        ({"input_ids": ids(), "position_ids": with_value(64)}, ["position_ids", "64", "0 to 63"]),
        ({"input_ids": ids(), "position_ids": with_value(-1)}, ["position_ids", "-1", "0 to 63"]),
    ],
    ids=case_name,
)
@pytest.mark.parametrize("optional", [{}, {"output_hidden_states": True}], ids=["packed", "padded"])
def test_bad_inputs_are_rejected(
    tiny_config: Build, arguments: dict[str, Any], expected: list[str], optional: dict[str, bool]
) -> None:
    model = SequenceEncoderModel(tiny_config("bert"))
    assert_rejected(model, {**arguments, **optional}, expected)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"input_ids": ids(1, 6), "cu_seq_lens_q": [0, 3, 5]}, ["from 0 to", "6", "[0, 3, 5]"]),
        ({"input_ids": ids(1, 6), "cu_seq_lens_q": [[0, 3, 6]]}, ["(documents + 1,)", "(1, 3)"]),
        ({"input_ids": ids(1, 6), "cu_seq_lens_q": [1, 6]}, ["from 0 to", "6", "[1, 6]"]),
        ({"input_ids": ids(1, 6), "cu_seq_lens_q": [0, 4, 2, 6]}, ["increase", "[0, 4, 2, 6]"]),
        ({"input_ids": ids(1, 6), "cu_seq_lens_q": [6]}, ["from 0 to", "6", "[6]"]),
        ({"input_ids": ids(2, 3), "cu_seq_lens_q": [0, 3]}, ["one packed row", "2 rows"]),
        (
            {"input_ids": ids(1, 6), "attention_mask": torch.ones(1, 6), "cu_seq_lens_q": [0, 6]},
            ["attention_mask", "both"],
        ),
    ],
    ids=case_name,
)
def test_offsets_that_do_not_fit_the_batch_are_rejected(
    tiny_config: Build, arguments: dict[str, Any], expected: list[str]
) -> None:
    offsets = torch.tensor(arguments["cu_seq_lens_q"], dtype=torch.int32)
    model = SequenceEncoderModel(tiny_config())
    assert_rejected(model, {**arguments, "cu_seq_lens_q": offsets}, ["cu_seq_lens_q", *expected])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"cu_seq_lens_q": [0, 3, 6]}, ["cu_seq_lens_q", "tensor", "list"]),
        ({"cu_seq_lens_q": torch.tensor([0.0, 3.0, 6.0])}, ["cu_seq_lens_q", "int32", "float32"]),
        ({"cu_seq_lens_k": torch.tensor([0, 3, 6])}, ["cu_seq_lens_k", "needs cu_seq_lens_q"]),
        ({"seq_idx": torch.tensor([[0, 1]])}, ["seq_idx", "(1, 6)", "(1, 2)"]),
        ({"seq_idx": torch.zeros(1, 6)}, ["seq_idx", "integers", "float32"]),
        ({"seq_idx": ids(1, 6), "attention_mask": torch.ones(1, 6)}, ["seq_idx", "without attention_mask", "both"]),
    ],
    ids=["list", "floating", "keys-alone", "index-shape", "index-floating", "index-masked"],
)
def test_offsets_of_the_wrong_type_or_shape_are_rejected(
    tiny_config: Build, arguments: dict[str, Any], expected: list[str]
) -> None:
    assert_rejected(SequenceEncoderModel(tiny_config()), {"input_ids": ids(1, 6), **arguments}, expected)


def test_with_one_segment_type_the_error_suggests_leaving_token_type_ids_out(tiny_config: Build) -> None:
    model = SequenceEncoderModel(tiny_config(type_vocab_size=1))
    expected = ["token_type_ids", "1", "0 to 0", "type_vocab_size", "leave them out"]
    assert_rejected(model, {"input_ids": ids(), "token_type_ids": with_value(1)}, expected)


def test_inputs_embeds_of_another_dtype_are_accepted_if_the_sum_promotes_them(tiny_config: Build) -> None:
    vectors = torch.randn(BATCH, LENGTH, HIDDEN).bfloat16()
    plain, summed = (SequenceEncoderModel(tiny_config(preset)).eval() for preset in ("vanilla", "bert"))
    assert_rejected(plain, {"inputs_embeds": vectors}, ["inputs_embeds", "torch.float32", "torch.bfloat16"])
    torch.testing.assert_close(
        summed(inputs_embeds=vectors).last_hidden_state, summed(inputs_embeds=vectors.float()).last_hidden_state
    )
    with torch.autocast("cpu", torch.bfloat16):
        assert plain(inputs_embeds=vectors).last_hidden_state.isfinite().all()
    assert_rejected(summed.bfloat16(), {"inputs_embeds": vectors.float()}, ["inputs_embeds", "torch.float32"])


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("hidden_size", 17, r"hidden_size=17 is not divisible by num_attention_heads=3"),
        ("num_hidden_layers", 4, r"layer_types has 3 entries for num_hidden_layers=4"),
        ("layer_types", ["sliding_attention"] * 3, r"need sliding_window >= 1, got None"),
    ],
)
@pytest.mark.parametrize("model_class", [SequenceEncoderModel, SequenceEncoderForMaskedLM])
def test_an_assigned_field_is_validated_before_the_model_is_built(
    tiny_config: Build, model_class: type[Any], field: str, value: Any, expected: str
) -> None:
    config = tiny_config()
    setattr(config, field, value)
    with pytest.raises(ValueError, match=expected):
        model_class(config)


def test_a_text_beyond_the_position_table_is_rejected_with_alternatives(tiny_config: Build) -> None:
    model = SequenceEncoderModel(tiny_config("bert"))
    assert model(torch.ones(1, LONGEST, dtype=torch.long)).last_hidden_state.isfinite().all()
    expected = ["'learned'", str(LONGEST), f"max_position_embeddings={LONGEST}", "Truncate", "'sinusoidal'", "'rotary'"]
    assert_rejected(model, {"input_ids": torch.ones(1, LONGEST + 1, dtype=torch.long)}, expected)


def test_token_type_ids_are_ignored_without_segment_embeddings(tiny_config: Build) -> None:
    model = SequenceEncoderModel(tiny_config(type_vocab_size=0)).eval()
    torch.testing.assert_close(
        model(ids(), token_type_ids=with_value(7)).last_hidden_state, model(ids()).last_hidden_state, rtol=0, atol=0
    )


ONE, SEVERAL, NUMBERS = (
    {"num_labels": labels, "problem_type": problem}
    for labels, problem in (
        (CLASSES, "single_label_classification"),
        (CLASSES, "multi_label_classification"),
        (CLASSES, "regression"),
    )
)
FEW = {"num_labels": CLASSES}
MASKED, ORDER = SequenceEncoderForMaskedLM, SequenceEncoderForPreTraining
TEXTS, TOKENS = SequenceEncoderForSequenceClassification, SequenceEncoderForTokenClassification
CHOICE, ANSWER = SequenceEncoderForMultipleChoice, SequenceEncoderForQuestionAnswering


@pytest.mark.parametrize(
    ("model_class", "fields", "labels", "expected"),
    [
        (MASKED, {}, {"labels": with_value(97)}, ["labels", "97", "0 to 96", "vocab_size", "-100"]),
        (MASKED, {}, {"labels": with_value(-1)}, ["labels", "-1", "0 to 96", "-100"]),
        (MASKED, {}, {"labels": ids(2, 4)}, ["labels", "(2, 5)", "(2, 4)"]),
        (MASKED, {}, {"labels": ids(5, 2)}, ["labels", "(2, 5)", "(5, 2)"]),
        (MASKED, {}, {"labels": with_value(0.5)}, ["labels", "integers", "float32"]),
        (MASKED, {}, {"labels": ids().tolist()}, ["labels", "tensor", "list"]),
        (MASKED, {}, {"labels": with_value(156).to(torch.uint8)}, ["labels", "156", "0 to 96"]),
        (ORDER, {}, {"labels": with_value(97)}, ["labels", "97", "0 to 96", "vocab_size"]),
        (ORDER, {}, {"sentence_order_label": with_value(2, 2)}, ["sentence_order_label", "2", "0 to 1"]),
        (ORDER, {}, {"sentence_order_label": with_value(1, 3)}, ["sentence_order_label", "(2,)", "(3,)"]),
        (ORDER, {}, {"sentence_order_label": with_value(1.0, 2)}, ["sentence_order_label", "float32"]),
        (TEXTS, FEW, {"labels": with_value(3, 2)}, ["labels", "3", "0 to 2", "num_labels"]),
        (TEXTS, ONE, {"labels": with_value(-7, 2)}, ["labels", "-7", "0 to 2", "num_labels"]),
        (TEXTS, ONE, {"labels": with_value(1, 3)}, ["labels", "(2,)", "(3,)"]),
        (TEXTS, FEW, {"labels": [0, 1]}, ["labels", "tensor", "list"]),
        (TEXTS, NUMBERS, {"labels": [0.0, 1.0]}, ["labels", "tensor", "list"]),
        (TEXTS, ONE, {"labels": with_value(1.0, 2)}, ["labels", "integers", "float32"]),
        (TEXTS, SEVERAL, {"labels": with_value(1.0, 2)}, ["labels", "(2, 3)", "multi_label", "(2,)"]),
        (TEXTS, SEVERAL, {"labels": with_value(2.0, 2, 3)}, ["labels", "2.0", "0 to 1"]),
        (TEXTS, NUMBERS, {"labels": with_value(2.0, 3, 2)}, ["labels", "(2, 3)", "regression", "(3, 2)"]),
        (TOKENS, FEW, {"labels": with_value(3)}, ["labels", "3", "0 to 2", "num_labels", "-100"]),
        (TOKENS, FEW, {"labels": with_value(1, 2)}, ["labels", "(2, 5)", "(2,)"]),
        (TOKENS, FEW, {"labels": with_value(1, 5, 2)}, ["labels", "(2, 5)", "(5, 2)"]),
        (TOKENS, FEW, {"labels": with_value(1.0)}, ["labels", "integers", "float32"]),
        (ANSWER, {}, {"start_positions": with_value(1, 2)}, ["end_positions", "missing"]),
        (ANSWER, {}, {"end_positions": with_value(1, 2)}, ["start_positions", "missing"]),
        (
            ANSWER,
            {},
            {"start_positions": with_value(1, 2), "end_positions": [1, 2]},
            ["end_positions", "tensor", "list"],
        ),
        (
            ANSWER,
            {},
            {"start_positions": with_value(-1, 2), "end_positions": with_value(1, 2)},
            ["start_positions", "-1", "0 to 4"],
        ),
        (
            ANSWER,
            {},
            {"start_positions": with_value(1, 2), "end_positions": with_value(1, 3)},
            ["end_positions", "(2,)", "(3,)"],
        ),
        (
            ANSWER,
            {},
            {"start_positions": with_value(1.0, 2), "end_positions": with_value(1, 2)},
            ["start_positions", "integers", "float32"],
        ),
    ],
    ids=case_name,
)
def test_invalid_labels_are_rejected_before_any_layer_runs(
    tiny_config: Build, model_class: type[Any], fields: dict[str, Any], labels: dict[str, Any], expected: list[str]
) -> None:
    assert_rejected(model_class(tiny_config(**fields)), {"input_ids": ids(), **labels}, expected)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"input_ids": ids()}, ["input_ids", "(batch, choices, sequence", "(2, 5)"]),
        ({"inputs_embeds": torch.zeros(2, 5, 24)}, ["inputs_embeds", "(batch, choices, sequence", "(2, 5, 24)"]),
        ({"input_ids": ids(2, 3, 5), "labels": with_value(3, 2)}, ["labels", "3", "0 to 2", "number of choices"]),
        ({"input_ids": ids(2, 3, 5), "labels": with_value(1, 2, 3)}, ["labels", "(2,)", "(2, 3)"]),
        ({"input_ids": ids(2, 3, 5), "attention_mask": torch.ones(2, 5)}, ["attention_mask", "(2, 3, 5)", "(2, 5)"]),
        ({"input_ids": ids(2, 3, 5), "attention_mask": torch.ones(3, 2, 5)}, ["attention_mask", "(3, 2, 5)"]),
        ({"input_ids": ids(2, 3, 5), "token_type_ids": ids(2, 5)}, ["token_type_ids", "(2, 3, 5)", "(2, 5)"]),
        ({"input_ids": ids(2, 3, 5), "position_ids": ids(1, 5)}, ["position_ids", "(2, 3, 5)", "(1, 5)"]),
        ({"inputs_embeds": torch.zeros(2, 3, 5, 23)}, ["inputs_embeds", "hidden_size=24", "(2, 3, 5, 23)"]),
        ({"input_ids": ids(2, 3, 5).tolist()}, ["input_ids", "tensor", "list"]),
        ({"input_ids": ids(2, 0, 5)}, ["empty", "(batch, choices, sequence)", "(2, 0, 5)"]),
        ({}, ["input_ids", "inputs_embeds", "neither"]),
    ],
    ids=case_name,
)
def test_invalid_multiple_choice_inputs_are_rejected(
    tiny_config: Build, arguments: dict[str, Any], expected: list[str]
) -> None:
    assert_rejected(SequenceEncoderForMultipleChoice(tiny_config()), arguments, expected)


@pytest.mark.parametrize(
    ("model_class", "fields", "name", "shape"),
    [
        (MASKED, {}, "labels", (2, 5)),
        (ORDER, {}, "labels", (2, 5)),
        (ORDER, {}, "sentence_order_label", (2,)),
        (TEXTS, FEW, "labels", (2,)),
        (TOKENS, FEW, "labels", (2, 5)),
        (CHOICE, {}, "labels", (2,)),
    ],
)
def test_the_ignored_label_is_accepted(
    tiny_config: Build, model_class: type[Any], fields: dict[str, Any], name: str, shape: tuple[int, ...]
) -> None:
    model = model_class(tiny_config(**fields))
    tokens = ids(2, 3, 5) if model_class is CHOICE else ids()
    one_ignored = model(input_ids=tokens, **{name: with_value(-100, *shape)}).loss
    assert one_ignored.isfinite()
    assert one_ignored > 0


@pytest.mark.parametrize("training", [True, False])
def test_uint8_labels_do_not_become_the_ignored_label(tiny_config: Build, training: bool) -> None:
    model = SequenceEncoderForMaskedLM(tiny_config(vocab_size=157)).train(training)
    labels = torch.full((BATCH, LENGTH), 156)
    torch.testing.assert_close(model(ids(), labels=labels.to(torch.uint8)).loss, model(ids(), labels=labels).loss)


@pytest.mark.parametrize("labels", [with_value(1.0, 2), with_value(1, 2, 3), with_value(9, 2)])
def test_rejected_labels_do_not_change_the_configuration(tiny_config: Build, labels: torch.Tensor) -> None:
    model = SequenceEncoderForSequenceClassification(tiny_config(**FEW))
    assert_rejected(model, {"input_ids": ids(), "labels": labels}, ["labels"])
    assert model.config.problem_type is None
    assert model(ids(), labels=with_value(1, 2)).loss.isfinite()


def test_an_answer_in_padding_is_rejected(tiny_config: Build, ragged: Build) -> None:
    model = SequenceEncoderForQuestionAnswering(tiny_config())
    tokens, mask = ragged([5, 3])
    positions = {"start_positions": torch.tensor([0, 1]), "end_positions": torch.tensor([4, 4])}
    assert_rejected(
        model, {"input_ids": tokens, "attention_mask": mask, **positions}, ["end_positions", "4", "padding"]
    )


@pytest.mark.parametrize("model_class", [TEXTS, TOKENS])
def test_a_classifier_without_labels_is_rejected(tiny_config: Build, model_class: type[Any]) -> None:
    with pytest.raises(ValueError, match=rf"{model_class.__name__} needs num_labels >= 1.*got 0"):
        model_class(tiny_config(num_labels=0))


def test_attentions_are_returned_if_the_implementation_computes_them(tiny_config: Build) -> None:
    model = SequenceEncoderModel._from_config(tiny_config(), attn_implementation="eager").eval()
    attentions = model(ids(), output_attentions=True).attentions
    assert [weights.shape for weights in attentions] == [(BATCH, 3, LENGTH, LENGTH)] * 3
    model.set_attn_implementation("flex_attention")
    assert_rejected(
        model, {"input_ids": ids(), "output_attentions": True}, ["output_attentions", "'flex_att", "'sdpa'"]
    )


@pytest.mark.parametrize("preset", ["vanilla", "bert", "modernbert"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("optional", [{}, {"output_hidden_states": True}], ids=["packed", "padded"])
def test_a_text_of_only_padding_is_encoded_as_zeros(
    tiny_config: Build, randomize: Build, preset: str, pooling: str, optional: dict[str, bool]
) -> None:
    model = randomize(SequenceEncoderModel(tiny_config(preset, pooling=pooling)))
    mask = torch.ones(BATCH, LENGTH).index_fill(0, torch.tensor(1), 0)
    outputs = model(ids(), mask, **optional)
    assert not outputs.last_hidden_state[1].any()
    torch.testing.assert_close(outputs.pooler_output[1], model.pooler.act(model.pooler.dense(torch.zeros(HIDDEN))))
    torch.testing.assert_close(outputs.last_hidden_state[:1], model(ids()[:1]).last_hidden_state, atol=1e-5, rtol=1e-4)
