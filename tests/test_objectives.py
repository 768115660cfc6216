"""Pretraining sees all of the texts, in windows of two segments that are swapped and masked as the labels say."""

from __future__ import annotations

import difflib
import inspect
import json
import random
import string
import textwrap
from collections.abc import Callable
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments

from sequence_encoder import SequenceEncoderForPreTraining, SequenceEncoderTokenizer
from sequence_encoder.training.objectives import PretrainingCollator, segment_windows, sentences

Build = Callable[..., Any]
Window = dict[str, list[list[int]]]
Batch = dict[str, torch.Tensor]

DOCUMENTED = [json, json.dumps, difflib, difflib.SequenceMatcher, difflib.unified_diff, random.Random, random.choices]
DOCUMENTED += [string.Formatter, textwrap.TextWrapper, textwrap.dedent, Path, Path.stat, inspect.signature, sorted]
TEXTS = [text for text in map(inspect.getdoc, DOCUMENTED) if text]
LONG = " ".join(f"word{i}" for i in range(40))
LONGEST = 64
LENGTHS = [5, 8, 17, LONGEST]
NOTHING_MASKED = 1e-9

every_text = pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))


@pytest.fixture(scope="module")
def tokenizer() -> SequenceEncoderTokenizer:
    return SequenceEncoderTokenizer.train_from_iterator([*TEXTS, LONG], vocab_size=500, show_progress=False)


@pytest.fixture(scope="module")
def windows(tokenizer: SequenceEncoderTokenizer) -> list[Window]:
    """Windows of one and of two segments, of many lengths."""
    found = list(segment_windows([*TEXTS, LONG], tokenizer, LONGEST))
    assert {bool(window["segments"][1]) for window in found} == {True, False}
    return found


@pytest.fixture
def model(tiny_config: Build, tokenizer: SequenceEncoderTokenizer) -> SequenceEncoderForPreTraining:
    names = ("pad", "cls", "sep", "mask")
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in names}
    config = tiny_config("bert", vocab_size=len(tokenizer), type_vocab_size=2, **special)
    return SequenceEncoderForPreTraining(config).train()


def ids_of(text: str, tokenizer: SequenceEncoderTokenizer) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def ends_of(text: str, tokenizer: SequenceEncoderTokenizer) -> list[int]:
    """How many tokens of the text there are up to the end of each sentence."""
    return list(accumulate(len(ids_of(sentence, tokenizer)) for sentence in sentences(text)))


def unmasked(batch: Batch) -> torch.Tensor:
    """The tokens before some were masked, as the labels tell them."""
    return torch.where(batch["labels"] == -100, batch["input_ids"], batch["labels"])


def special_tokens(batch: Batch, tokenizer: SequenceEncoderTokenizer) -> torch.Tensor:
    """Where [CLS], [SEP] and padding stand."""
    special = torch.tensor([tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id])
    return torch.isin(unmasked(batch), special)


def assert_finite_gradients(model: torch.nn.Module, loss: torch.Tensor) -> None:
    loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    assert gradients
    assert [name for name, gradient in gradients.items() if not gradient.isfinite().all()] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two? Three! Four", ["One.", "Two?", "Three!", "Four"]),
        ("It ends.  \n  (So does this.)", ["It ends.", "(So does this.)"]),
        ("Pi is 3.14, e.g. in numpy.pi of v2.0", ["Pi is 3.14, e.g. in numpy.pi of v2.0"]),
        ("A line\ngoes on\n    and on", ["A line\ngoes on\n    and on"]),
        ("a paragraph\n\nanother\n \t\n\nand one more", ["a paragraph", "another", "and one more"]),
        ("list:\n- one\n* two\n  - three\n> four", ["list:", "- one", "* two", "- three", "> four"]),
        ("arguments\n  x: a number\n  name (str): a\n  name", ["arguments", "x: a number", "name (str): a\n  name"]),
        ("", []),
        (" \n\n \t ", []),
    ],
)
def test_a_text_falls_into_sentences_paragraphs_and_items(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@every_text
def test_sentences_lose_nothing_but_space(text: str) -> None:
    parts = sentences(text)
    assert parts
    assert all(part and part == part.strip() for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())


@pytest.mark.parametrize("max_length", LENGTHS)
def test_no_window_is_longer_than_the_model_takes(tokenizer: SequenceEncoderTokenizer, max_length: int) -> None:
    for window in segment_windows([*TEXTS, LONG], tokenizer, max_length):
        first, second = window["segments"]
        assert first
        assert len(first) + len(second) + 3 <= max_length


@pytest.mark.parametrize("max_length", LENGTHS)
def test_windows_hold_all_tokens_in_their_order(tokenizer: SequenceEncoderTokenizer, max_length: int) -> None:
    for text in [*TEXTS, LONG]:
        segments = [window["segments"] for window in segment_windows([text], tokenizer, max_length)]
        assert [token for first, second in segments for token in first + second] == ids_of(text, tokenizer)


def test_no_window_spans_two_texts(tokenizer: SequenceEncoderTokenizer) -> None:
    apart = [window for text in TEXTS for window in segment_windows([text], tokenizer, LONGEST)]
    assert list(segment_windows(iter(TEXTS), tokenizer, LONGEST)) == apart
    assert len(apart) > len(TEXTS)


@every_text
def test_windows_hold_as_many_whole_sentences_as_fit_in_halves_as_equal_as_can_be(
    tokenizer: SequenceEncoderTokenizer, text: str
) -> None:
    ends = ends_of(text, tokenizer)
    longest = max(end - start for start, end in pairwise([0, *ends]))
    # The first sentences fill some of these windows to the last token.
    for room in (max(2 * longest, 30), *(end for end in ends if end >= longest)):
        start = 0
        for window in segment_windows([text], tokenizer, room + 3):
            first, second = window["segments"]
            length = len(first) + len(second)
            assert start + length == max(end for end in ends if end <= start + room)
            cuts = [end - start for end in ends if start < end < start + length]
            assert len(first) in cuts or (not cuts and not second)
            assert all(abs(len(first) - len(second)) <= abs(2 * cut - length) for cut in cuts)
            start += length
        assert start == ends[-1]


def test_a_sentence_longer_than_a_window_is_cut(tokenizer: SequenceEncoderTokenizer) -> None:
    ids = ids_of(LONG, tokenizer)
    room = 13
    windows = list(segment_windows([LONG], tokenizer, room + 3))
    assert [window["segments"] for window in windows] == [[ids[i : i + room], []] for i in range(0, len(ids), room)]
    assert len(windows) > 2


def test_the_rest_of_a_long_sentence_shares_a_window_with_the_next(tokenizer: SequenceEncoderTokenizer) -> None:
    long, short = ids_of(LONG, tokenizer), ids_of("As is.", tokenizer)
    room = len(long) - 5
    *_, last = segment_windows([f"{LONG}\n\nAs is."], tokenizer, room + 3)
    assert last["segments"] == [long[room:], short]


def test_texts_without_tokens_give_no_windows(tokenizer: SequenceEncoderTokenizer) -> None:
    nothing = ["", " ", "\n\n\t", "\x00"]
    assert list(segment_windows(nothing, tokenizer, 16)) == []
    assert list(segment_windows([], tokenizer, 16)) == []
    between = list(segment_windows(["", "As is.", *nothing, "As is."], tokenizer, 16))
    assert between == 2 * list(segment_windows(["As is."], tokenizer, 16))


def test_a_text_that_speaks_of_special_tokens_has_none_of_them(tokenizer: SequenceEncoderTokenizer) -> None:
    (window,) = segment_windows(["Put [MASK] and [SEP] as is."], tokenizer, 64)
    assert not set(tokenizer.all_special_ids) - {tokenizer.unk_token_id} & {*window["segments"][0]}


@pytest.mark.parametrize("max_length", [4, 3, 0, -1])
def test_a_length_without_room_for_two_tokens_is_refused(tokenizer: SequenceEncoderTokenizer, max_length: int) -> None:
    with pytest.raises(ValueError, match=rf"max_length.* 5\b.*got {max_length}\."):
        list(segment_windows(TEXTS, tokenizer, max_length))


def test_rows_are_cls_first_sep_second_sep_in_the_order_that_their_label_says(
    tokenizer: SequenceEncoderTokenizer, windows: list[Window]
) -> None:
    batch = PretrainingCollator(tokenizer)(windows)
    assert {name: tensor.shape for name, tensor in batch.items() if name != "sentence_order_label"} == dict.fromkeys(
        ("input_ids", "token_type_ids", "attention_mask", "labels"), batch["input_ids"].shape
    )
    assert batch["sentence_order_label"].shape == (len(windows),)
    cls, sep, pad = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id
    longest = 0
    rows = (unmasked(batch), batch["token_type_ids"], batch["attention_mask"], batch["sentence_order_label"])
    for window, tokens, types, mask, order in zip(windows, *(row.tolist() for row in rows), strict=True):
        first, second = window["segments"]
        assert order in ((0, 1) if second else (-100,))
        if order == 1:
            first, second = second, first
        expected = [cls, *first, sep] + ([*second, sep] if second else [])
        padding = len(tokens) - len(expected)
        assert tokens == expected + padding * [pad]
        assert mask == len(expected) * [1] + padding * [0]
        second_segment = len(second) + 1 if second else 0
        assert types == (len(first) + 2) * [0] + second_segment * [1] + padding * [0]
        longest = max(longest, len(expected))
    assert batch["input_ids"].shape == (len(windows), longest)


def test_half_of_the_pairs_are_swapped(tokenizer: SequenceEncoderTokenizer, windows: list[Window]) -> None:
    pairs = [window for window in windows if window["segments"][1]]
    collate = PretrainingCollator(tokenizer)
    orders = collate(pairs * (1000 // len(pairs)))["sentence_order_label"]
    assert set(orders.tolist()) == {0, 1}
    assert 0.4 < orders.float().mean() < 0.6


@pytest.mark.parametrize("probability", [0.15, 0.3, 0.6])
def test_the_share_of_tokens_that_was_asked_for_is_predicted(
    tokenizer: SequenceEncoderTokenizer, windows: list[Window], probability: float
) -> None:
    batch = PretrainingCollator(tokenizer, mlm_probability=probability)(windows)
    words = ~special_tokens(batch, tokenizer)
    labelled = batch["labels"] != -100
    assert words.sum() > 2000
    assert not labelled[~words].any()
    assert labelled[words].float().mean() == pytest.approx(probability, abs=0.05)


def test_of_the_tokens_to_predict_most_are_masked_some_replaced_and_some_kept(
    tokenizer: SequenceEncoderTokenizer, windows: list[Window]
) -> None:
    batch = PretrainingCollator(tokenizer, mlm_probability=0.6)(windows)
    labelled = batch["labels"] != -100
    shown, right = batch["input_ids"][labelled], batch["labels"][labelled]
    masked, kept = shown == tokenizer.mask_token_id, shown == right
    assert masked.float().mean() == pytest.approx(0.8, abs=0.05)
    assert kept.float().mean() == pytest.approx(0.1, abs=0.05)
    assert (~masked & ~kept).float().mean() == pytest.approx(0.1, abs=0.05)
    assert not (batch["input_ids"][~labelled] == tokenizer.mask_token_id).any()


def test_a_seed_stands_for_the_same_batches(tokenizer: SequenceEncoderTokenizer, windows: list[Window]) -> None:
    def batches(seed: int) -> list[Batch]:
        collate = PretrainingCollator(tokenizer, seed=seed)
        return [collate(windows), collate(windows)]

    one, same, other = batches(1), batches(1), batches(2)
    torch.testing.assert_close(one, same, rtol=0, atol=0)
    # The second time the same windows are swapped and masked afresh, and with another seed as well.
    for different in (one[1], other[0]):
        assert not torch.equal(one[0]["sentence_order_label"], different["sentence_order_label"])
        pads = [F.pad(batch["labels"], (0, LONGEST - batch["labels"].shape[1])) for batch in (one[0], different)]
        assert not torch.equal(*pads)


def test_the_windows_stay_as_they_were(tokenizer: SequenceEncoderTokenizer, windows: list[Window]) -> None:
    before = json.dumps(windows)
    PretrainingCollator(tokenizer)(windows)
    assert json.dumps(windows) == before


def test_the_loss_of_a_batch_is_that_of_its_masked_tokens_and_of_its_orders(
    model: SequenceEncoderForPreTraining, tokenizer: SequenceEncoderTokenizer, windows: list[Window]
) -> None:
    batch = PretrainingCollator(tokenizer)(windows[:16])
    outputs = model(**batch)
    labels = batch["labels"][batch["labels"] != -100]
    masked = F.cross_entropy(outputs.prediction_logits, labels)
    order = F.cross_entropy(outputs.sop_logits, batch["sentence_order_label"])
    torch.testing.assert_close(outputs.loss, masked + order)
    assert_finite_gradients(model, outputs.loss)


@pytest.mark.parametrize("training", [True, False])
def test_a_batch_without_a_masked_token_has_the_loss_of_its_orders(
    model: SequenceEncoderForPreTraining, tokenizer: SequenceEncoderTokenizer, windows: list[Window], training: bool
) -> None:
    batch = PretrainingCollator(tokenizer, mlm_probability=NOTHING_MASKED)(windows[:16])
    assert (batch["labels"] == -100).all()
    outputs = model.train(training)(**batch)
    torch.testing.assert_close(outputs.loss, F.cross_entropy(outputs.sop_logits, batch["sentence_order_label"]))
    assert_finite_gradients(model, outputs.loss)


@pytest.mark.parametrize("training", [True, False])
def test_a_batch_of_single_segments_has_the_loss_of_its_masked_tokens(
    model: SequenceEncoderForPreTraining, tokenizer: SequenceEncoderTokenizer, training: bool
) -> None:
    batch = PretrainingCollator(tokenizer)(list(segment_windows([LONG], tokenizer, 16)))
    assert (batch["sentence_order_label"] == -100).all()
    outputs = model.train(training)(**batch)
    logits = outputs.prediction_logits
    labels = batch["labels"][batch["labels"] != -100] if training else batch["labels"].flatten()
    torch.testing.assert_close(outputs.loss, F.cross_entropy(logits.flatten(0, -2), labels))
    assert_finite_gradients(model, outputs.loss)


def test_a_batch_with_nothing_to_predict_moves_nothing(
    model: SequenceEncoderForPreTraining, tokenizer: SequenceEncoderTokenizer
) -> None:
    windows = list(segment_windows([LONG], tokenizer, 16))
    outputs = model(**PretrainingCollator(tokenizer, mlm_probability=NOTHING_MASKED)(windows))
    assert outputs.loss == 0
    assert_finite_gradients(model, outputs.loss)
    assert not any(weight.grad.any() for weight in model.parameters() if weight.grad is not None)


def test_windows_without_segments_are_refused_with_the_cause(tokenizer: SequenceEncoderTokenizer) -> None:
    with pytest.raises(ValueError, match="remove_unused_columns=False"):
        PretrainingCollator(tokenizer)([{}])


def test_an_unmodified_trainer_learns_from_windows(
    model: SequenceEncoderForPreTraining, tokenizer: SequenceEncoderTokenizer, windows: list[Window], tmp_path: Path
) -> None:
    held_out = PretrainingCollator(tokenizer, seed=1)(windows)
    with torch.inference_mode():
        before = model.eval()(**held_out).loss
    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=30,
            per_device_train_batch_size=16,
            learning_rate=1e-2,
            remove_unused_columns=False,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=windows,
        data_collator=PretrainingCollator(tokenizer),
    )
    trainer.train()
    with torch.inference_mode():
        after = model.eval()(**held_out).loss
    assert 0 < after < before
