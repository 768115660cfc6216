"""`adapt` in Python does what the command does, with models and examples that a program holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from sequence_encoder import (
    AdaptationReport,
    SequenceEncoderForSequenceClassification,
    SequenceEncoderForTokenClassification,
    SequenceEncoderTokenizer,
    adapt,
)
from sequence_encoder.command_line import UsageError
from sequence_encoder.tests.fixtures.adaptation_runs import COUNTS, FAST, examples_of, run, save_encoder, write_examples

pytest.importorskip("datasets")

QUIET: dict[str, Any] = {"bf16": False, "disable_tqdm": True, "logging_strategy": "no", "save_strategy": "no"}
# What differs between two runs with the same model and examples.
OWN = ("seconds", "peak_memory", "run")
TINY = {"train": 64, "test": 16}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder") / "minilm")


def record_of(folder: Path) -> dict[str, Any]:
    record = json.loads((folder / "results.json").read_text())
    return {name: value for name, value in record.items() if name not in OWN}


def rows_of(task: str, counts: dict[str, int]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows that `write_examples` writes."""
    return {split: examples_of(task, count, number) for number, (split, count) in enumerate(counts.items())}


def test_the_result_is_that_of_the_command(encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = run(
        "classification", encoder, tmp_path / "command", **FAST, **write_examples(tmp_path, "classification", COUNTS)
    )
    printed = capsys.readouterr().out
    model, tokenizer, report = adapt(
        AutoModel.from_pretrained(encoder),
        output_dir=tmp_path / "function",
        task="classification",
        tokenizer=AutoTokenizer.from_pretrained(encoder),
        **rows_of("classification", COUNTS),
        **FAST,
        **QUIET,
    )
    assert record_of(tmp_path / "function") == record_of(tmp_path / "command")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("command", "function"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert isinstance(model, SequenceEncoderForSequenceClassification)
    assert isinstance(tokenizer, SequenceEncoderTokenizer)
    assert isinstance(report, AdaptationReport)
    assert report.plan.model == "minilm"
    assert report.metrics == results.kept.metrics
    assert report.baselines == results.baselines
    assert report.output_dir == tmp_path / "function"
    table = printed[printed.index("trained") :].splitlines()[:3]
    assert all(line in str(report) for line in table)
    assert "Adapted to classification on 240 rows, from minilm." in (tmp_path / "function" / "README.md").read_text()


def test_the_plan_says_what_is_trained_on_what_and_why(encoder: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"task": "classification", "seeds": 2, "learning_rate": 1e-3, **QUIET}
    train = rows_of("classification", TINY)["train"]
    *_, report = adapt(encoder, train, tmp_path / "out", **given)
    said = str(report.plan)
    assert f"Train {encoder} for classification, with the tuning auto, into {tmp_path / 'out'}." in said
    assert "Examples: 64 train, 64 validation." in said
    assert "Judged by cross-validation on 3 folds of the training examples, because these are fewer than 2,000" in said
    assert "Plan for 64 examples: 8 epochs, batches of 16." in said
    assert "learning_rate 0.001" in said
    assert "Training runs with the seeds 0, 1." in said
    with pytest.raises(AttributeError):
        report.plan.task = "ner"  # type: ignore[misc]
    assert report.record["seeds"] == [0, 1]
    *_, again = adapt(encoder, train, tmp_path / "out", resume=True, **given)
    assert again.plan.is_finished
    assert again.metrics == report.metrics


def test_datasets_and_files_are_examples_too(encoder: Path, tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Sequence

    rows = rows_of("ner", TINY)
    names = sorted({tag for row in rows["train"] for tag in row["ner_tags"]})
    train = Dataset.from_list(rows["train"]).cast_column("ner_tags", Sequence(ClassLabel(names=names)))
    file = write_examples(tmp_path, "ner", {"test": 16})["test_file"]
    model, _, report = adapt(encoder, train, tmp_path / "out", task="ner", test=file, max_steps=2, **QUIET)
    assert isinstance(model, SequenceEncoderForTokenClassification)
    assert set(model.config.id2label.values()) == set(names)
    assert report.metrics["test"]["loss"] > 0


@pytest.mark.parametrize("task", ["embedding", "ranking"])
def test_models_of_sentence_transformers_are_returned(encoder: Path, tmp_path: Path, task: str) -> None:
    library = pytest.importorskip("sentence_transformers")
    rows = rows_of(task, TINY)
    model, tokenizer, report = adapt(
        str(encoder), rows["train"], tmp_path / "out", task=task, test=rows["test"], max_steps=2, **QUIET
    )
    assert isinstance(model, library.SentenceTransformer if task == "embedding" else library.CrossEncoder)
    assert tokenizer("red")["input_ids"]
    assert report.metrics["test"]


def test_prompts_are_loaded_with_their_encoder(encoder: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    rows = rows_of("classification", TINY)
    model, tokenizer, _ = adapt(
        encoder, rows["train"], tmp_path / "out", task="classification", tuning="prompt", max_steps=2, **QUIET
    )
    assert isinstance(model, peft.PeftModel)
    assert model(**tokenizer("red", return_tensors="pt")).logits.shape == (1, 3)


ROWS = rows_of("classification", TINY)["train"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "adapt needs training examples: pass train, or dataset_name"),
        ({"train": []}, "train has no examples."),
        ({"train": 3}, "train must be a list of dictionaries, a datasets.Dataset or the name of a file, got int."),
        ({"train": [*ROWS, "red"]}, r"row 64 \(from 0\) is 'red'"),
        ({"train": ROWS, "train_file": "x.csv"}, "train and train_file are the same examples; pass only one"),
        ({"train": ROWS, "epochs": 3}, "there is no option epochs; the options are "),
        ({"train": ROWS, "tuning": "magic"}, "tuning must be one of .*, got 'magic'"),
        ({"train": ROWS, "task": "magic"}, "task must be one of .*, got 'magic'"),
        ({"train": ROWS, "rank": 4}, "--rank has no effect with --tuning auto"),
        ({"train": ROWS, "test": "no.csv"}, "--test_file no.csv: there is no such file."),
        ({"train": [*ROWS, {"text": None, "label": "red"}]}, r"row 64 \(from 0\) of train"),
        (
            {"train": [{"text": "a", "label": 1}, {"text": "b", "label": "1"}]},
            r"row 0 \(from 0\) of train has 1 and row 1",
        ),
        ({"train": ROWS, "tokenizer": "bert"}, "tokenizer is for a loaded model"),
        ({"train": ROWS, "model": 3}, "model must be a folder, a Hub id or a PreTrainedModel, got a int."),
        ({"train": ROWS, "label_column": "topic"}, "topic"),
    ],
)
def test_mistakes_are_found_before_anything_is_computed(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    options = {"model": "nowhere", "task": "classification", "output_dir": tmp_path / "out", **QUIET, **given}
    with pytest.raises(UsageError, match=said):
        adapt(**options)
    assert not list(tmp_path.iterdir())


def test_a_loaded_model_needs_its_tokenizer_and_cannot_be_resumed(encoder: Path, tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(encoder)
    with pytest.raises(UsageError, match="a loaded model needs its tokenizer, got None"):
        adapt(model, ROWS, tmp_path / "out", task="classification")
    with pytest.raises(UsageError, match="resume needs the model by its name or folder"):
        adapt(model, ROWS, tmp_path / "out", task="classification", resume=True)
