"""`sequence-encoder adapt` on files of every kind: formats, label names, splits, long texts and spans."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers
from datasets import Dataset
from transformers import pipeline

from sequence_encoder.tests.fixtures.adaptation_runs import FAST, examples_of, run, save_encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


def test_csv_and_parquet_files_are_read(encoder: Path, tmp_path: Path) -> None:
    import pandas

    rows = pandas.DataFrame([{"sentence": f"it is {c}", "kind": f"{c},cat"} for c in ("red", "green", "blue")] * 12)
    rows.to_csv(tmp_path / "rows.csv", index=False)
    rows.to_parquet(tmp_path / "rows.parquet")
    for ending in ("csv", "parquet"):
        columns = {"text_column": "sentence", "label_column": "kind", "num_train_epochs": 1}
        run("multi-label", encoder, tmp_path / ending, train_file=tmp_path / f"rows.{ending}", **columns)
        config = transformers.AutoConfig.from_pretrained(tmp_path / ending)
        assert list(config.id2label.values()) == ["blue", "cat", "green", "red"]


def test_an_empty_cell_has_no_labels(encoder: Path, tmp_path: Path) -> None:
    rows = [*[f'it is {colour},"{colour},cat"' for colour in ("red", "green")], "we saw it,"] * 12
    (tmp_path / "rows.csv").write_text("\n".join(["text,labels", *rows]))
    files = dict.fromkeys(("train_file", "validation_file", "test_file"), tmp_path / "rows.csv")
    run("multi-label", encoder, tmp_path / "out", **files, num_train_epochs=1)
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert list(config.id2label.values()) == ["cat", "green", "red"]
    predicted = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    assert {"red,cat", "green,cat", ""} == {json.loads(row)["labels"] for row in predicted}


def test_texts_that_the_tokenizer_does_not_know_are_announced(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.csv").write_text("text,label\n" + "红 色 red,a\n绿 色 cat,b\n" * 10)
    (tmp_path / "test.csv").write_text("text,label\n" + "the red,a\nthe cat,b\n" * 3)
    files = {"train_file": tmp_path / "train.csv", "test_file": tmp_path / "test.csv"}
    run("classification", encoder, tmp_path / "out", **files, num_train_epochs=1)
    said = {
        line.partition(":")[0]: line for line in capsys.readouterr().out.splitlines() if "no text is longer" in line
    }
    # Two of three words, and the two special tokens.
    assert said["train"].endswith("; 40% of the tokens are unknown to the tokenizer.")
    assert "unknown" not in said["test"]


def test_label_names_from_dataset_features_are_kept(encoder: Path, tmp_path: Path) -> None:
    from datasets import ClassLabel, Features, Sequence, Value

    tags = Sequence(ClassLabel(names=["O", "B-colour"]))
    rows = {"tokens": [["it", "is", "red"], ["we", "saw"]] * 10, "ner_tags": [[0, 0, 1], [0, 0]] * 10}
    features = Features({"tokens": Sequence(Value("string")), "ner_tags": tags})
    Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "rows.parquet"))
    run("ner", encoder, tmp_path / "out", train_file=tmp_path / "rows.parquet", num_train_epochs=1)
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert config.id2label == {0: "B-colour", 1: "O"}


def test_numeric_labels_match_across_file_formats(encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\n" + "a red,1\na cat,2\na dog,None\n" * 5)
    (tmp_path / "valid.jsonl").write_text('{"text": "a red", "label": "None"}\n{"text": "a cat", "label": "1"}\n')
    files = {"train_file": tmp_path / "train.csv", "validation_file": tmp_path / "valid.jsonl"}
    run("classification", encoder, tmp_path / "csv", **files, num_train_epochs=1)
    assert transformers.AutoConfig.from_pretrained(tmp_path / "csv").label2id == {"1": 0, "2": 1, "None": 2}
    (tmp_path / "train.jsonl").write_text("".join(f'{{"text": "a", "label": {x}}}\n' for x in (10, 9) * 5))
    (tmp_path / "valid.jsonl").write_text('{"text": "a red", "label": 9.0}\n{"text": "a cat", "label": 10.0}\n')
    run("classification", encoder, tmp_path / "jsonl", **{**files, "train_file": tmp_path / "train.jsonl"})
    assert transformers.AutoConfig.from_pretrained(tmp_path / "jsonl").label2id == {"9": 0, "10": 1}


def test_a_split_with_hidden_labels_is_skipped(encoder: Path, tmp_path: Path) -> None:
    from datasets import ClassLabel, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    (tmp_path / "data").mkdir()
    for split, labels in (("train", [0, 1] * 8), ("test", [-1] * 4)):
        rows = Dataset.from_dict({"text": ["a red cat"] * len(labels), "label": labels}, features=features)
        rows.to_parquet(str(tmp_path / "data" / f"{split}-0.parquet"))
    results = run("classification", encoder, tmp_path / "out", dataset_name=tmp_path / "data", num_train_epochs=1)
    assert set(results.best.metrics) == {"validation"}


def test_entities_are_learned_from_character_spans(encoder: Path, tmp_path: Path) -> None:
    rows = []
    for row in examples_of("ner", 240, 0):
        text, spans = " ".join(row["tokens"]), []
        for word, tag in zip(row["tokens"], row["ner_tags"], strict=True):
            if tag != "O":
                start = f" {text} ".index(f" {word} ")
                spans.append({"start": start, "end": start + len(word), "label": tag[2:]})
        rows.append({"text": text, "entities": spans})
    (tmp_path / "spans.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    results = run(
        "ner", encoder, tmp_path / "out", train_file=tmp_path / "spans.jsonl", label_column="entities", **FAST
    )
    assert results.best.metrics["validation"]["f1"] > 0.9
    pipe = pipeline("token-classification", model=str(tmp_path / "out"), aggregation_strategy="first")
    assert [each["entity_group"] for each in pipe("we saw red and the dog")] == ["colour", "animal"]


def test_long_contexts_are_read_in_windows(encoder: Path, tmp_path: Path) -> None:
    rows = examples_of("qa", 200, 0)
    for row in rows:
        before = "it is here by the " * 4
        row["context"] = before + row["context"]
        row["answers"]["answer_start"] = [row["answers"]["answer_start"][0] + len(before)]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"max_length": 24, "doc_stride": 8, **FAST}
    results = run("qa", encoder, tmp_path / "out", train_file=tmp_path / "long.jsonl", **options)
    assert results.best.metrics["validation"]["exact_match"] > 80
