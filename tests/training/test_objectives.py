"""Batches are swapped and masked as their labels state, at the requested rates, and reproducibly from their seeds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from sequence_encoder import SequenceEncoderTokenizer
from sequence_encoder.data.packs import EvaluationWindows, Pack, PackedWindows
from sequence_encoder.data.windows import Window, segment_windows
from sequence_encoder.tests.fixtures.texts import LONG, TEXTS, tokenizer_of
from sequence_encoder.training.pretraining.objectives import Objectives, PretrainingCollator

Batch = dict[str, Any]


@pytest.fixture(scope="module")
def tokenizer() -> SequenceEncoderTokenizer:
    return tokenizer_of()


@pytest.fixture(scope="module")
def windows(tokenizer: SequenceEncoderTokenizer) -> list[Window]:
    """Return windows of one and of two segments and of many lengths."""
    found = list(segment_windows([*TEXTS, LONG], tokenizer, 64))
    assert {bool(window["cut"]) for window in found} == {True, False}
    return found


def pack_of(windows: Iterable[Window], seed: int = 0, progress: float = 0.0) -> Pack:
    return {"windows": list(windows), "seed": [seed], "progress": progress}


def unmasked(batch: Batch) -> torch.Tensor:
    """Restore the tokens before masking from the labels."""
    return torch.where(batch["labels"] == -100, batch["input_ids"], batch["labels"])


def special_tokens(batch: Batch, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """Return where [CLS], [SEP] and padding are."""
    special = torch.tensor([tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id])
    return torch.isin(unmasked(batch), special)


def share(batch: Batch, tokenizer: PreTrainedTokenizerBase) -> float:
    """Return the share of text tokens with labels."""
    return float((batch["labels"] != -100)[~special_tokens(batch, tokenizer)].float().mean())


def same(one: Batch, other: Batch) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(torch.as_tensor(value), torch.as_tensor(other[name])) for name, value in one.items()
    )


def test_rows_have_their_segments_in_the_order_of_their_label(
    tokenizer: SequenceEncoderTokenizer, windows: list[Window]
) -> None:
    batch = PretrainingCollator(tokenizer)([pack_of(windows[:30]), pack_of(windows[30:], seed=1)])
    names = ("input_ids", "token_type_ids", "attention_mask", "labels")
    assert {batch[name].shape for name in names} == {(len(windows), int(batch["attention_mask"].sum(1).max()))}
    assert batch["sentence_order_label"].shape == (len(windows),)
    cls, sep, pad = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id
    rows = (unmasked(batch), batch["token_type_ids"], batch["attention_mask"], batch["sentence_order_label"])
    for window, tokens, types, mask, order in zip(windows, *(row.tolist() for row in rows), strict=True):
        ids, cut = window["input_ids"].tolist(), window["cut"]
        assert order in ((0, 1, -100) if cut else (-100,))
        first, second = (ids, []) if order == -100 else (ids[:cut], ids[cut:])
        if order == 1:
            first, second = second, first
        expected = [cls, *first, sep] + ([*second, sep] if second else [])
        assert len(expected) == window["length"] - (cut > 0 and not second)
        padding = len(tokens) - len(expected)
        assert tokens == expected + padding * [pad]
        assert mask == len(expected) * [1] + padding * [0]
        second_segment = len(second) + 1 if second else 0
        assert types == (len(first) + 2) * [0] + second_segment * [1] + padding * [0]


@pytest.mark.parametrize(("mlm_weight", "share"), [(1, 0.25), (0, 1)])
def test_a_quarter_of_the_windows_or_all_without_masks_are_cut_and_half_of_them_swapped(
    tokenizer: SequenceEncoderTokenizer, windows: list[Window], mlm_weight: float, share: float
) -> None:
    pairs = [window for window in windows if window["cut"]]
    collate = PretrainingCollator(tokenizer, Objectives(mlm_weight=mlm_weight))
    orders = collate([pack_of(pairs * (8000 // len(pairs)))])["sentence_order_label"]
    cut = orders[orders != -100]
    assert set(cut.tolist()) == {0, 1}
    assert len(cut) / len(orders) == pytest.approx(share, abs=0.02)
    assert 0.46 < cut.float().mean() < 0.54


def test_without_sentence_order_no_window_is_cut(tokenizer: SequenceEncoderTokenizer, windows: list[Window]) -> None:
    batch = PretrainingCollator(tokenizer, Objectives(sop_weight=0))([pack_of(windows)])
    assert (unmasked(batch) == tokenizer.sep_token_id).sum() == len(windows)
    assert "sentence_order_label" not in batch


def test_a_quarter_of_the_texts_predict_their_tokens_before_masking(
    tokenizer: SequenceEncoderTokenizer, windows: list[Window]
) -> None:
    packs = [pack_of(windows * 30), pack_of(windows, seed=1)]
    batch = PretrainingCollator(tokenizer)(packs)
    tokens = batch.pop("bow_tokens")
    assert batch.pop("bow_weight") == 1
    chosen = (tokens != -100).any(dim=1)
    assert float(chosen.float().mean()) == pytest.approx(0.25, abs=0.02)
    expected = unmasked(batch).masked_fill(special_tokens(batch, tokenizer), -100)
    assert torch.equal(tokens[chosen], expected[chosen])
    # The choice leaves all masks and swaps as they are.
    assert same(batch, PretrainingCollator(tokenizer, Objectives(bow_weight=0))(packs))


@pytest.mark.parametrize("probability", [0.15, 0.3, 0.6])
def test_the_requested_share_of_tokens_is_masked_and_no_special_token(
    tokenizer: SequenceEncoderTokenizer, windows: list[Window], probability: float
) -> None:
    collate = PretrainingCollator(tokenizer, Objectives(mlm_probability=probability))
    batch = collate([pack_of(5 * windows)])
    special = special_tokens(batch, tokenizer)
    assert (~special).sum() > 10_000
    assert not (batch["labels"] != -100)[special].any()
    assert share(batch, tokenizer) == pytest.approx(probability, abs=0.02)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.6, 0.6, 0.6, 0.6]),
        ("linear", [0.6, 0.475, 0.35, 0.1]),
        # At a quarter of the training, the cosine is at 45 degrees.
        ("cosine", [0.6, 0.527, 0.35, 0.1]),
    ],
)
def test_the_masking_rate_follows_its_schedule(
    tokenizer: SequenceEncoderTokenizer, windows: list[Window], schedule: str, expected: list[float]
) -> None:
    objectives = Objectives(mlm_probability=0.6, final_mlm_probability=0.1, mlm_schedule=schedule)
    collate = PretrainingCollator(tokenizer, objectives)
    shares = [
        share(collate([pack_of(5 * windows, seed, progress)]), tokenizer)
        for seed, progress in enumerate((0.0, 0.25, 0.5, 1.0))
    ]
    assert shares == pytest.approx(expected, abs=0.02)


def test_labelled_tokens_are_masked_replaced_or_kept(
    tokenizer: SequenceEncoderTokenizer, windows: list[Window]
) -> None:
    batch = PretrainingCollator(tokenizer, Objectives(mlm_probability=0.6))([pack_of(20 * windows)])
    labelled = batch["labels"] != -100
    shown, right = batch["input_ids"][labelled], batch["labels"][labelled]
    masked, kept = shown == tokenizer.mask_token_id, shown == right
    assert masked.float().mean() == pytest.approx(0.8, abs=0.02)
    assert kept.float().mean() == pytest.approx(0.1, abs=0.02)
    replaced = shown[~masked & ~kept]
    assert len(replaced) / len(shown) == pytest.approx(0.1, abs=0.02)
    # The replacements are drawn uniformly from the vocabulary.
    counts = torch.bincount(replaced, minlength=len(tokenizer))
    assert len(counts) == len(tokenizer)
    assert (counts > 0).float().mean() > 0.95
    assert counts.max() < 5 * counts.float().mean()
    assert not (batch["input_ids"][~labelled] == tokenizer.mask_token_id).any()


@pytest.mark.parametrize("whole_word_mask", [True, False])
def test_a_pack_always_becomes_the_same_batch(
    tokenizer: SequenceEncoderTokenizer, windows: list[Window], whole_word_mask: bool
) -> None:
    objectives = Objectives(whole_word_mask=whole_word_mask)
    used = PretrainingCollator(tokenizer, objectives)
    packs = [pack_of(windows, seed) for seed in (1, 2)]
    first = used(packs[:1])
    torch.manual_seed(1)
    np.random.seed(1)
    assert same(used(packs[:1]), first)
    assert same(PretrainingCollator(tokenizer, objectives)(packs[:1]), first)
    beside = used(packs)
    assert same(
        {
            name: beside[name][: len(windows)] if isinstance(value, torch.Tensor) else value
            for name, value in first.items()
        },
        first,
    )


def test_masks_differ_between_epochs_but_not_in_evaluation(
    tokenizer: SequenceEncoderTokenizer, windows: list[Window]
) -> None:
    collate = PretrainingCollator(tokenizer)
    packs = PackedWindows(windows[:4], 10_000)
    batches = []
    for epoch in (0, 1):
        packs.set_epoch(epoch)
        (pack,) = packs
        batches.append(collate([pack]))
    assert not same(*batches)
    evaluated = [collate(list(EvaluationWindows(windows[:4]))) for _ in range(2)]
    assert same(*evaluated)


@pytest.mark.parametrize("items", [[{}], [{"input_ids": [1, 2]}]])
def test_items_that_are_not_packs_are_rejected_with_the_cause(
    tokenizer: SequenceEncoderTokenizer, items: list[Any]
) -> None:
    with pytest.raises(ValueError, match=r"'windows'.*remove_unused_columns=False.*PackedWindows"):
        PretrainingCollator(tokenizer)(items)


def test_a_tokenizer_without_a_mask_token_is_rejected() -> None:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer_of().backend_tokenizer, cls_token="[CLS]", pad_token="[PAD]"
    )
    with pytest.raises(ValueError, match="lacks sep, mask"):
        PretrainingCollator(tokenizer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mlm_weight": -0.5}, r"mlm_weight must be at least 0, got -0\.5"),
        ({"sop_weight": float("inf")}, "sop_weight must be .* got inf"),
        ({"sop_weight": float("nan")}, "sop_weight must be .* got nan"),
        ({"mlm_weight": 0, "sop_weight": 0}, "both 0"),
        ({"mlm_probability": 0.0}, r"mlm_probability must be between 0 and 1, got 0\.0"),
        ({"mlm_probability": 1.0}, r"mlm_probability must be between 0 and 1, got 1\.0"),
        ({"final_mlm_probability": 15}, "final_mlm_probability must be between 0 and 1, got 15"),
        ({"mlm_schedule": "step"}, "'step' does not exist; choose one of constant, linear, cosine"),
    ],
)
def test_out_of_range_objectives_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Objectives(**options)
