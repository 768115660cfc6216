"""`adapt --task extraction` learns to find spans for labels that the model reads, from every form of examples."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from statistics import harmonic_mean
from typing import Any

import numpy as np
import pytest
from transformers import AutoModel, AutoTokenizer

from sequence_encoder import SequenceEncoderForSpanExtraction
from sequence_encoder.command_line import UsageError
from sequence_encoder.configuration.span_extraction_field import SpanExtractionFields
from sequence_encoder.tests.fixtures.adaptation_runs import (
    ANIMALS,
    COLOURS,
    FILLERS,
    refusal_of,
    run,
    save_encoder,
    write_rows,
)
from sequence_encoder.tests.fixtures.gliner_folders import save_gliner
from sequence_encoder.training.adaptation.arguments import TaskDataArguments
from sequence_encoder.training.adaptation.setups.batches import Draws
from sequence_encoder.training.adaptation.setups.extraction import known_mentions
from sequence_encoder.training.adaptation.tasks import Extraction
from sequence_encoder.training.adaptation.tasks.extraction import best_threshold, measured

Rows = list[dict[str, Any]]
# What a tiny encoder with a new head learns within seconds.
FAST: dict[str, Any] = {"learning_rate": 6e-3, "num_train_epochs": 4, "per_device_train_batch_size": 16}


def examples(count: int, seed: int, form: str = "words") -> Rows:
    """Return rows with a colour and an animal each, in one of the forms."""
    rng, rows = random.Random(seed), []
    for _ in range(count):
        words, place = rng.sample(FILLERS, 4), rng.randrange(4)
        words = [*words[:place], rng.choice(COLOURS), *words[place:], rng.choice(ANIMALS)]
        text = " ".join(words)
        if form == "words":
            rows.append({"tokenized_text": words, "ner": [[place, place, "red"], [5, 5, "owl"]]})
        elif form == "characters":
            first = len(" ".join([*words[:place], ""]))
            spans = [(first, first + len(words[place]), "red"), (len(text) - len(words[5]), len(text), "owl")]
            rows.append({"text": text, "ner_tags": [{"start": a, "end": b, "label": c} for a, b, c in spans]})
        else:
            tags = ["B-red" if n == place else "B-owl" if n == 5 else "O" for n in range(6)]
            rows.append({"tokens": words, "ner_tags": tags})
    return rows


def files(folder: Path, form: str = "words") -> dict[str, str]:
    counts = {"train": 240, "validation": 40, "test": 40}
    return {
        f"{split}_file": write_rows(folder / f"{form}-{split}.jsonl", examples(count, number, form))
        for number, (split, count) in enumerate(counts.items())
    }


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def adapted(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapted")
    run("extraction", encoder, folder / "out", **files(folder), **FAST)
    return folder / "out"


def task_of(rows: Rows, tmp_path: Path, tokenizer: Any, max_length: int = 64, **options: Any) -> tuple[Extraction, Any]:
    """Return a task that has read rows, and its encoded rows."""
    task = Extraction(TaskDataArguments(train_file=write_rows(tmp_path / "rows.jsonl", rows)), max_length, **options)
    found = task.read({"train": task.data.files_of("train").load()})["train"]  # type: ignore[union-attr]
    marker, separator = map(tokenizer.convert_tokens_to_ids, ("<<ENT>>", "<<SEP>>"))
    task.use(tokenizer, SpanExtractionFields(marker, separator, max_width=4))
    encoded = task.encode(found, tokenizer)
    task.draws.count(encoded)
    return task, encoded


@pytest.fixture(scope="module")
def tokenizer(encoder: Path) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    tokenizer.add_tokens(["<<ENT>>", "<<SEP>>"], special_tokens=True)
    return tokenizer


def test_a_new_head_learns_and_finds_the_same_spans_after_saving(adapted: Path) -> None:
    report = json.loads((adapted / "results.json").read_text())
    assert report["metrics"]["test"]["f1"]["mean"] > 0.9
    assert set(report["metrics"]["test"]) == {"loss", "precision", "recall", "f1", "f1_at_0.5", "threshold"}
    assert report["by_label"]["split"] == "test"
    assert {label: each["entities"] for label, each in report["by_label"]["labels"].items()} == {
        "owl": 40,
        "red": 40,
    }
    assert set(report["baselines"]) == {"before_training", "known_mentions"}
    model, tokenizer = AutoModel.from_pretrained(adapted), AutoTokenizer.from_pretrained(adapted)
    assert type(model) is SequenceEncoderForSpanExtraction
    assert model.config.span_extraction["threshold"] == report["metrics"]["validation"]["threshold"]["mean"]
    rows = [json.loads(line) for line in (adapted / "predictions.jsonl").read_text().splitlines()]
    texts = [" ".join(row["tokenized_text"]) for row in rows]
    found = model.extract(texts, ["owl", "red"], tokenizer)
    for row, text, spans in zip(rows, texts, found, strict=True):
        words = [(text[: span["start"]].count(" "), span["label"]) for span in spans]
        assert words == [(span["first"], span["label"]) for span in row["prediction"]]
    scores = [span["score"] for spans in found for span in spans]
    model.config.span_extraction["threshold"] = least = min(scores)
    above = [span for spans in model.extract(texts, ["owl", "red"], tokenizer) for span in spans]
    assert len(above) == sum(score > least for score in scores) < len(scores)
    card = (adapted / "README.md").read_text()
    assert 'labels = ["owl", "red"]' in card
    assert 'pipeline("zero-shot-entities"' in card
    assert "windows of at most" in card


@pytest.mark.parametrize("form", ["characters", "tags"])
def test_other_forms_of_examples_are_the_same_entities(form: str, tmp_path: Path, tokenizer: Any) -> None:
    expected, encoded = task_of(examples(20, 0), tmp_path, tokenizer)
    task, other = task_of(examples(20, 0, form), tmp_path, tokenizer)
    assert task.names == expected.names == ["owl", "red"]
    for name in ("input_ids", "word_ids"):
        assert other[name] == encoded[name]
    assert [sorted(each) for each in other["entities"]] == [sorted(each) for each in encoded["entities"]]


@pytest.mark.parametrize("kind", ["a GLiNER", "one of ours"])
def test_a_trained_head_goes_on_learning(kind: str, adapted: Path, tmp_path: Path) -> None:
    place = adapted
    if kind == "a GLiNER":
        save_gliner(place := tmp_path / "gliner")
        (place / "pytorch_model.bin").unlink(missing_ok=True)
    before = AutoModel.from_pretrained(adapted) if kind == "one of ours" else None
    options = {"learning_rate": 1e-6, "num_train_epochs": 1, "per_device_train_batch_size": 64}
    results = run("extraction", place, tmp_path / "out", **files(tmp_path), **options)
    after: Any = AutoModel.from_pretrained(tmp_path / "out")
    assert type(after) is SequenceEncoderForSpanExtraction
    if before is not None:
        assert results.baselines["before_training"]["test"]["f1"] > 0.9
        assert len(after.get_input_embeddings().weight) == len(before.get_input_embeddings().weight)
    else:
        assert after.config.span_extraction["hidden_size"] == 20


def test_labels_are_drawn_anew_and_entities_point_at_them(tmp_path: Path, tokenizer: Any) -> None:
    labels = [*FILLERS, "owl"]
    rows = [{**row, "ner": [[5, 5, "owl"], [0, 0, FILLERS[n % 10]]]} for n, row in enumerate(examples(40, 0))]
    task, encoded = task_of(rows, tmp_path, tokenizer, max_length=128)
    draws = Draws(encoded, task.draws, 0)
    read, missing, negatives = set(), 0, 0
    for epoch in range(3):
        draws.epoch.fill_(epoch)
        for number in range(40):
            row = draws[number]
            assert row == draws[number]
            places = [place for place, label in enumerate(row["class_ids"]) if label]
            assert {row["input_ids"][place] for place in places} == {task.fields.label_token_id}
            ends = [*places[1:], row["input_ids"].index(task.fields.separator_token_id)]
            names = [tokenizer.decode(row["input_ids"][a + 1 : b]) for a, b in zip(places, ends, strict=True)]
            assert len(set(names)) == len(names)
            assert set(names) <= set(labels)
            own = {(first, label) for first, _, label in rows[number]["ner"]}
            found = {(first, names[label]) for first, _, label in row["labels"]}
            assert found == {each for each in own if each[1] in names}
            assert max(row["word_ids"]) == 6
            read.add(tuple(names))
            missing += found != own
            negatives += len(names) > 2
    assert len(read) > 100
    assert 10 < missing < 40
    assert negatives > 80


def test_only_labels_that_a_text_was_searched_for_are_negatives(tmp_path: Path, tokenizer: Any) -> None:
    rows = examples(20, 0)
    for number, row in enumerate(rows):
        if number % 2:
            row |= {"ner": row["ner"][:1], "ner_labels": ["red", "owl"]}
        else:
            row |= {"ner": [[5, 5, "owl"]], "ner_negatives": []}
    task, encoded = task_of(rows, tmp_path, tokenizer)
    rng = np.random.default_rng(0)
    counts = np.array([[max(row["class_ids"]) for row in task.draws(encoded[:], rng)] for _ in range(20)])
    assert (counts[:, ::2] == 1).all()
    assert set(counts[:, 1::2].flatten()) == {1, 2}


def test_long_texts_lose_no_entity_and_windows_leave_room_for_labels(tmp_path: Path, tokenizer: Any) -> None:
    words = [word for row in examples(24, 0) for word in row["tokenized_text"]]
    ner = [[n, n + n % 3, f"kind {n % 5}"] for n in range(len(words) - 3)]
    task, encoded = task_of([{"tokenized_text": words, "ner": ner}] * 2, tmp_path, tokenizer)
    first = [row for row in encoded if row["row"] == 0]
    assert len(first) > 2
    found = {(a + row["first"], b + row["first"], task.names[c]) for row in first for a, b, c in row["entities"]}
    assert found == {tuple(entity) for entity in ner}
    rng = np.random.default_rng(0)
    for rows in (task.draws(encoded[:], rng), task.evaluation_rows(encoded)):
        assert max(len(row["input_ids"]) for row in rows) <= 64
    assert "windows of at most 64 tokens" in task.cut.in_words(64)


def test_descriptions_are_read_most_of_the_time(tmp_path: Path, tokenizer: Any) -> None:
    descriptions = {"red": "red or blue", "owl": "cat or dog"}
    task, encoded = task_of(examples(30, 0), tmp_path, tokenizer, descriptions=descriptions)
    texts = [tokenizer.decode(row["input_ids"]) for row in task.draws(encoded[:], np.random.default_rng(0))]
    described = sum(" or " in text.split("<<SEP>>")[0] for text in texts)
    assert 15 < described < 30 or described == 30
    assert all(" or " in tokenizer.decode(row["input_ids"]) for row in task.evaluation_rows(encoded))


def test_held_out_labels_are_never_trained_but_evaluated(encoder: Path, tmp_path: Path, tokenizer: Any) -> None:
    task, encoded = task_of(examples(20, 0), tmp_path, tokenizer, held_out=["owl"])
    for row in task.draws(encoded[:], np.random.default_rng(0)):
        assert max(row["class_ids"]) == 1
        assert all(first < 5 for first, *_ in row["labels"])
    rows = [{"tokenized_text": ["a", "red", "cat"], "ner": [{"first": 1, "last": 1, "label": "red"}]}]
    assert known_mentions(task, {"train": rows, "test": rows})["test"]["f1"] == 1
    options = {"learning_rate": 1e-4, "num_train_epochs": 1, "held_out_labels": "owl"}
    results = run("extraction", encoder, tmp_path / "out", **files(tmp_path), **options)
    assert results.metric == "harmonic_f1"
    metrics = results.best.metrics["validation"]
    assert metrics["harmonic_f1"] == pytest.approx(harmonic_mean([metrics["f1"], metrics["zero_shot_f1"]]))
    assert "zero_shot_f1" in results.best.metrics["test"]


def test_measures_are_of_exact_spans_and_the_threshold_is_the_best() -> None:
    truth = {(0, 1, 1, 0), (0, 2, 3, 1), (1, 0, 0, 0)}
    spans = [((0, 1, 1, 0), 0.9), ((0, 2, 3, 0), 0.6), ((1, 0, 0, 0), 0.4), ((1, 4, 4, 0), 0.12)]
    assert measured(spans, truth, 0.5) == pytest.approx({"precision": 1 / 2, "recall": 1 / 3, "f1": 2 / 5})
    assert best_threshold((spans, truth)) == 0.35
    assert best_threshold(([], truth)) == 0.5
    # Of a label that is never found above 0.12, the others must not decide alone.
    assert best_threshold((spans, truth), ([((1, 4, 4, 2), 0.12)], {(1, 4, 4, 2)})) == 0.1


Change = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: {**row, "ner": [[5, 6, "owl"]]}, "has an entity from 5 to 6, which is outside its text of 6"),
        (lambda row: {**row, "ner": []}, "the training examples have no entities"),
        (lambda row: {**row, "tokenized_text": ["a", ""]}, "must contain a list of words in every row"),
        (lambda row: {"tokenized_text": row["tokenized_text"]}, "--label_column ner is not in the train examples"),
    ],
)
def test_invalid_examples_are_refused(change: Change, message: str, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "train.jsonl", list(map(change, examples(4, 0))))
    with pytest.raises(UsageError, match=message):
        run("extraction", tmp_path / "no-encoder", tmp_path / "out", train_file=file)
    assert not (tmp_path / "out").exists()


def test_labels_that_no_example_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--held_out_labels names plant, which the examples do not have"):
        run("extraction", tmp_path, tmp_path / "out", **files(tmp_path), held_out_labels="plant")
    assert "--tuning lora does not support --task extraction" in refusal_of("extraction", "x", {"tuning": "lora"})
