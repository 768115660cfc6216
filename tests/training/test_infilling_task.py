"""`adapt --task infilling` trains a model to write what is missing in gaps, and how much."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForMaskedLM, AutoTokenizer

from sequence_encoder import SequenceEncoderForMaskedLM, SequenceEncoderModel
from sequence_encoder.command_line import UsageError
from sequence_encoder.tests.fixtures.adaptation_runs import FAST, run, save_encoder, write_examples
from sequence_encoder.training.adaptation.arguments import TaskDataArguments
from sequence_encoder.training.adaptation.setups.batches import Draws
from sequence_encoder.training.adaptation.tasks.infilling import Infilling

IGNORED = -100
LENGTH, BLOCK = 40, 6


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a model for masked language modelling whose decoder has a bias other than that of a new head."""
    folder = save_encoder(tmp_path_factory.mktemp("encoder"))
    torch.manual_seed(1)
    model = SequenceEncoderForMaskedLM(SequenceEncoderModel.from_pretrained(folder).config)
    torch.nn.init.normal_(model.decoder.bias, std=0.1)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def task(encoder: Path) -> Infilling:
    task = Infilling(TaskDataArguments(train_file="rows"), LENGTH, BLOCK)
    task.use(AutoTokenizer.from_pretrained(encoder))
    return task


def example(length: int) -> dict[str, list[int]]:
    """Return an encoded text of so many different tokens between [CLS] and [SEP]."""
    text = list(range(10, 10 + length))
    return {"input_ids": [2, *text, 3], "labels": [IGNORED, *text, IGNORED]}


def gaps_of(written: np.ndarray) -> list[slice]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], written, [False]])))
    return [slice(*pair) for pair in edges.reshape(-1, 2)]


def draws(task: Infilling, length: int, count: int = 200) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    ids = np.array(example(length)["input_ids"])
    written = (ids != 2) & (ids != 3)
    return [task.draw(ids, written, rng, False) for _ in range(count)]


@pytest.mark.parametrize("length", [2, 3, 9, LENGTH - 2])
def test_a_gap_holds_what_is_missing_and_then_padding(task: Infilling, length: int) -> None:
    for ids, written in draws(task, length):
        left_over = ids == task.pad_id
        text = ids[~left_over]
        assert len(ids) <= LENGTH
        assert text.tolist() == [2, *range(10, 10 + len(text) - 2), 3]
        # Only masks that are left over take the place of text.
        assert len(text) == length + 2 or len(ids) == LENGTH
        assert not written[[0, -1]].any()
        assert not (left_over & ~written).any()
        assert 2 * (written & ~left_over).sum() <= len(text) - 2
        gaps = gaps_of(written)
        assert 1 <= len(gaps) <= 3
        for gap in gaps:
            assert gap.stop - gap.start <= max(BLOCK, length)
            assert not left_over[gap.start]
            assert (np.diff(left_over[gap].astype(int)) >= 0).all()


def test_special_tokens_that_a_text_mentions_are_text(encoder: Path, task: Infilling) -> None:
    rows = Dataset.from_list([{"text": "the [MASK] is [PAD]"}])
    task.read({"train": rows})
    (example,) = task.encode(rows, AutoTokenizer.from_pretrained(encoder))
    assert not {task.mask_id, task.pad_id} & {*example["input_ids"]}


def test_only_gaps_have_masks_and_labels(task: Infilling) -> None:
    batch = {name: [example(20)[name]] * 50 for name in ("input_ids", "labels")}
    rates = set()
    for row in task.training_rows(batch, np.random.default_rng(0)):
        masked, labelled = row["input_ids"] == task.mask_id, row["labels"] != IGNORED
        assert not (masked & ~labelled).any()
        assert (row["input_ids"] == row["labels"])[labelled & ~masked].all()
        assert ((row["label_weights"] > 0) == masked).all()
        found = set(row["label_weights"][masked].tolist())
        assert len(found) <= 1
        rates |= found
    assert len(rates) > 30


def test_masks_depend_on_seed_and_epoch_and_those_of_evaluations_are_fixed(task: Infilling) -> None:
    inputs = {name: [example(20)[name]] * 5 for name in ("input_ids", "labels")}

    class Rows(dict[str, Any]):
        def __getitem__(self, key: Any) -> Any:
            if isinstance(key, list):
                return {name: [self[name][index] for index in key] for name in self}
            return super().__getitem__(key)

    def masked(seed: int, epoch: int) -> list[list[int]]:
        made = Draws(Rows(inputs), task.training_rows, seed)
        made.epoch.fill_(epoch)
        return [row["input_ids"].tolist() for row in made.__getitems__([3, 1])]

    assert masked(0, 0) == masked(0, 0)
    assert masked(0, 0) != masked(0, 1)
    assert masked(0, 0) != masked(1, 0)
    examples = [{**example(20), "row": row} for row in range(5)]
    found = [task.evaluation_rows(examples).to_dict() for _ in range(2)]
    assert found[0] == found[1]
    assert Counter(found[0]["row"]) == dict.fromkeys(range(5), 4)


def test_a_batch_without_masks_has_no_loss(encoder: Path) -> None:
    model = AutoModelForMaskedLM.from_pretrained(encoder).train()
    ids = torch.tensor([[2, 10, 11, 3]])
    loss = model(input_ids=ids, labels=ids, label_weights=torch.zeros(1, 4)).loss
    loss.backward()
    assert loss == 0


@pytest.mark.parametrize("tuning", ["full", "lora", "ia3"])
def test_training_lowers_the_bound_and_the_folder_has_the_model(encoder: Path, tmp_path: Path, tuning: str) -> None:
    files = write_examples(tmp_path, "infilling", {"train": 96, "validation": 16, "test": 8})
    options = {**FAST, "num_train_epochs": 2, "tuning": tuning, "max_gap_tokens": 4}
    found = run("infilling", encoder, tmp_path / "out", **options, **files)
    assert found.metric == "nats_per_token"
    assert found.kept.score == -found.kept.metrics["validation"]["nats_per_token"]
    before = found.baselines["before_training"]["test"]["nats_per_token"]
    assert found.kept.metrics["test"]["nats_per_token"] < before
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    predictions = [json.loads(line)["prediction"] for line in (tmp_path / "out" / "predictions.jsonl").open()]
    assert len(predictions) == 8
    assert sum(predictions) / 8 == pytest.approx(found.kept.metrics["test"]["nats_per_token"], rel=0.2)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| max gap tokens | 4 |" in card
    usage = re.search(r"Fill gaps of .*:\n\n```python\n(.*?)```", card, re.DOTALL)
    assert usage is not None
    exec(usage[1], {"model": model, "tokenizer": AutoTokenizer.from_pretrained(tmp_path / "out")})
    if tuning != "full":
        from peft import PeftModel

        base = AutoModelForMaskedLM.from_pretrained(tmp_path / "out" / "base")
        adapted = PeftModel.from_pretrained(base, str(tmp_path / "out" / "adapter"))
        ids = torch.tensor([[2, 10, 4, 11, 3]])
        torch.testing.assert_close(adapted.eval()(input_ids=ids).logits, model.eval()(input_ids=ids).logits)


@pytest.fixture
def error_of(encoder: Path, tmp_path: Path) -> Callable[..., str]:
    """Return `error_of(texts, **options)`, which returns the error of a run and checks that it wrote nothing."""

    def give(texts: list[Any], change: Callable[[Any], None] | None = None, **options: Any) -> str:
        (tmp_path / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        folder = encoder
        if change is not None:
            folder = save_encoder(tmp_path / "encoder")
            tokenizer = AutoTokenizer.from_pretrained(folder)
            change(tokenizer)
            tokenizer.save_pretrained(folder)
        with pytest.raises(UsageError) as caught:
            run("infilling", folder, tmp_path / "out", train_file=tmp_path / "train.jsonl", **options)
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    return give


TEXTS = ["the red cat is here", "we saw the dog", "the owl is blue", "it is red"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([*TEXTS, " "], "a text that is not blank in every row; line 5 of"),
        ([*TEXTS, None], "line 5 of"),
        ([*TEXTS, "a", "a", "a", "a"], "at least two tokens, one for a gap and one beside it, got 'a'"),
    ],
)
def test_texts_without_room_for_a_gap_are_refused(error_of: Callable[..., str], texts: list[Any], message: str) -> None:
    assert message in error_of(texts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing_factor": 0.1}, "--label_smoothing_factor must be 0, got 0.1"),
        ({"class_weights": "balanced"}, "--class_weights only supports classification and ner"),
        ({"metric_for_best_model": "f1"}, "must be one of nats_per_token, perplexity, accuracy, loss, got f1"),
    ],
)
def test_options_without_a_meaning_are_refused(
    error_of: Callable[..., str], options: dict[str, Any], message: str
) -> None:
    assert message in error_of(TEXTS, **options)


def test_a_tokenizer_without_a_mask_token_is_refused(error_of: Callable[..., str]) -> None:
    message = error_of(TEXTS, lambda tokenizer: setattr(tokenizer, "mask_token", None))
    assert "needs a tokenizer with a mask token" in message
    assert "tokenizer lacks a mask token." in message


def test_gaps_that_do_not_fit_into_a_text_are_refused(error_of: Callable[..., str]) -> None:
    assert "--max_gap_tokens must be at most 15, half of the tokens" in error_of(TEXTS, max_length=32)
