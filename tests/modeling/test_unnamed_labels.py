"""A model whose outputs have no names, as after a plain `Trainer`, works with the numbers of its outputs as labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import ClassLabel, Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sequence_encoder import (
    SequenceEncoderForSequenceClassification,
    SequenceEncoderForTokenClassification,
    calibrate,
    evaluate,
    explain,
    match_label_shares,
)
from sequence_encoder.tests.fixtures.adaptation_runs import examples_of, run, save_encoder

# The labels of each task, in the order of a model's outputs.
NAMES = {
    "classification": ["red", "green", "blue"],
    "multi-label": ["red", "green", "blue", "cat", "dog", "owl"],
    "ner": ["O", "B-animal", "B-colour"],
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


def unnamed(encoder: Path, task: str = "classification") -> tuple[Any, Any]:
    torch.manual_seed(0)
    head = SequenceEncoderForTokenClassification if task == "ner" else SequenceEncoderForSequenceClassification
    fields = {"problem_type": "multi_label_classification"} if task == "multi-label" else {}
    model = head.from_pretrained(encoder, num_labels=len(NAMES[task]), **fields)
    assert model.config.id2label[0] == "LABEL_0"
    return model, AutoTokenizer.from_pretrained(encoder)


def numbered(task: str, count: int, seed: int, name: Any) -> list[dict[str, Any]]:
    """Return examples whose labels are what `name` makes of the numbers of outputs."""

    def replaced(value: Any) -> Any:
        return [replaced(each) for each in value] if isinstance(value, list) else name(NAMES[task].index(value))

    rows = examples_of(task, count, seed)
    return [
        {key: replaced(value) if key in ("label", "labels", "ner_tags") else value for key, value in row.items()}
        for row in rows
    ]


@pytest.mark.parametrize("task", NAMES)
def test_evaluate_takes_the_numbers_of_outputs_as_labels(encoder: Path, task: str) -> None:
    model, tokenizer = unnamed(encoder, task)
    named, *others = (
        evaluate(model, tokenizer, {"home": numbered(task, 12, 0, name)}, bootstrap_samples=2).files[0].metrics
        for name in ("LABEL_{}".format, int, str)
    )
    assert others == [named, named]


def test_calibrate_takes_the_numbers_of_a_dataset(encoder: Path) -> None:
    found = []
    for name in ("LABEL_{}".format, int):
        model, tokenizer = unnamed(encoder)
        rows = Dataset.from_list(numbered("classification", 60, 0, name))
        if name is int:
            rows = rows.cast_column("label", ClassLabel(names=["one", "two", "three"]))
        calibrate(model, tokenizer, rows)
        found.append(model.classifier.weight.detach())
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_other_labels_are_refused_with_what_to_set(encoder: Path, tmp_path: Path) -> None:
    model, tokenizer = unnamed(encoder)
    rows = {"home": examples_of("classification", 12, 0)}
    with pytest.raises(ValueError, match=r'only has LABEL_0, LABEL_1, LABEL_2 \(id2label in .*"id2label": {"0": "bad"'):
        evaluate(model, tokenizer, rows)
    model.save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    fields["id2label"] = {str(index): label for index, label in enumerate(NAMES["classification"])}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    evaluate(AutoModelForSequenceClassification.from_pretrained(tmp_path), tokenizer, rows, bootstrap_samples=2)


def test_a_number_is_explained_or_gets_a_share(encoder: Path) -> None:
    model, tokenizer = unnamed(encoder)
    (by_number,), (by_name,) = (explain(model, tokenizer, "red cat", target=each) for each in ("2", "LABEL_2"))
    assert by_number == by_name
    assert by_number.target.name == "LABEL_2"
    biases = []
    for shares in ({"0": 0.5, "1": 0.3, "2": 0.2}, [0.5, 0.3, 0.2]):
        model, tokenizer = unnamed(encoder)
        match_label_shares(model, tokenizer, [row["text"] for row in examples_of("classification", 12, 0)], shares)
        biases.append(model.classifier.bias.tolist())
    assert biases[0] == biases[1]


def test_adapt_keeps_a_head_whose_outputs_have_no_names(encoder: Path, tmp_path: Path) -> None:
    model, tokenizer = unnamed(encoder)
    for saved in (model, tokenizer):
        saved.save_pretrained(tmp_path / "trained")
    files = {}
    for split, count in {"train": 20, "validation": 8}.items():
        rows = numbered("classification", count, 0, int)
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        files[f"{split}_file"] = tmp_path / f"{split}.jsonl"
    run("classification", tmp_path / "trained", tmp_path / "out", **files, num_train_epochs=1, learning_rate=1e-9)
    after = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(after.classifier.weight, model.classifier.weight)
    assert after.config.id2label == {0: "0", 1: "1", 2: "2"}
