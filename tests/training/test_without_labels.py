"""`sequence-encoder adapt --label_names_file`: classifiers from the names of classes and texts without labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sequence_encoder import SequenceEncoderModel
from sequence_encoder.command_line import UsageError
from sequence_encoder.modeling.text_encoding.embedding_recipe import EmbeddingRecipe, Normalize
from sequence_encoder.tests.fixtures.adaptation_runs import (
    COLOURS,
    corpus_of,
    examples_of,
    run,
    save_encoder,
    write_rows,
)
from sequence_encoder.training.adaptation.examples.self_training import by_vectors, find_classes


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a tiny sentence encoder, in whose vectors the words of a text show."""
    folder = save_encoder(tmp_path_factory.mktemp("encoder"))
    model = SequenceEncoderModel.from_pretrained(folder)
    model.embedding_recipe = EmbeddingRecipe(after=(Normalize(),))
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    """Return options that name 240 texts without labels, 40 with labels to test on, and the names of the classes."""
    names = tmp_path / "names.txt"
    names.write_text("red\ngreen\n\nblue\n")
    texts = [{"text": row["text"]} for row in examples_of("classification", 240, 0)]
    return {
        "train_file": write_rows(tmp_path / "train.jsonl", texts),
        "test_file": write_rows(tmp_path / "test.jsonl", examples_of("classification", 40, 1)),
        "label_names_file": names,
    }


def report_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "results.json").read_text()))


def test_names_alone_train_a_classifier(
    encoder: Path, tmp_path: Path, given: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run("classification", encoder, tmp_path / "out", **given)
    report, printed = report_of(tmp_path / "out"), capsys.readouterr().out
    assert report["metrics"]["test"]["accuracy"]["mean"] > 0.9
    assert report["confusion_matrix"]["split"] == "test"
    assert report["labelling"]["texts"] == 240
    assert sum(report["labelling"]["shares"].values()) == pytest.approx(1, abs=1e-3)
    for text in (printed, (tmp_path / "out" / "README.md").read_text()):
        assert report["labelling"]["summary"] in text
        assert f"Estimated accuracy: {report['labelling']['estimated_accuracy']:.0%}" in text
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert sorted(model.config.label2id) == sorted(COLOURS)
    texts = [row["text"] for row in examples_of("classification", 240, 0)]
    with torch.no_grad():
        scores = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.softmax(1)
    # The scores are no higher than the estimate allows, though the model is right about all texts.
    assert scores.max(1).values.mean().item() == pytest.approx(report["labelling"]["estimated_accuracy"], abs=0.03)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a tiny model for natural language inference: a text entails a sentence if both name the same colour."""
    folder = save_encoder(tmp_path_factory.mktemp("judge"), num_hidden_layers=1, pooler_act="tanh")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    labels = {"entailment": 0, "contradiction": 1}
    named = {"id2label": {index: label for label, index in labels.items()}, "label2id": labels}
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder, **named)
    with torch.no_grad():
        for weight in (each for each in model.parameters() if each.dim() > 1):
            weight.zero_()
        for channel, colour in enumerate(COLOURS):
            model.model.embed_tokens.weight[tokenizer.convert_tokens_to_ids(colour), channel] = 1
            # The channel is below 0.4 if a colour is there once, and above 0.7 if it is there twice.
            model.model.pooler.dense.weight[channel, channel] = 50
            model.model.pooler.dense.bias[channel] = -25
            model.classifier.weight[:, channel] = torch.tensor([2, -2])
        model.classifier.bias.copy_(torch.tensor([4, -4]))
    model.save_pretrained(folder)
    return folder


def test_a_model_for_inference_compares_names_and_texts(judge: Path, tmp_path: Path, given: dict[str, Any]) -> None:
    # Its vectors need not be those of a sentence encoder.
    plain = save_encoder(tmp_path / "plain")
    texts = [{"text": row["text"]} for row in examples_of("classification", 60, 0)]
    given["train_file"] = write_rows(tmp_path / "few.jsonl", texts)
    run("classification", plain, tmp_path / "out", **given, zero_shot_model=judge)
    report = report_of(tmp_path / "out")
    assert report["metrics"]["test"]["accuracy"]["mean"] > 0.9
    assert str(judge) in report["labelling"]["summary"]


def test_a_zero_shot_model_must_be_one_for_inference(encoder: Path, tmp_path: Path, given: dict[str, Any]) -> None:
    other = tmp_path / "other"
    AutoModelForSequenceClassification.from_pretrained(encoder).save_pretrained(other)
    AutoTokenizer.from_pretrained(encoder).save_pretrained(other)
    with pytest.raises(UsageError, match="must be a model for natural language inference, with a label entailment"):
        run("classification", encoder, tmp_path / "out", **given, zero_shot_model=other)
    with pytest.raises(UsageError, match=r"--zero_shot_model .*absent: There is no folder"):
        run("classification", encoder, tmp_path / "out", **given, zero_shot_model=tmp_path / "absent")
    with pytest.raises(UsageError, match="--zero_shot_model needs a --label_names_file"):
        run("classification", encoder, tmp_path / "out", train_file=given["train_file"], zero_shot_model=other)


def test_no_metric_is_reported_on_labels_that_nobody_gave(
    encoder: Path, tmp_path: Path, given: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    del given["test_file"]
    run("classification", encoder, tmp_path / "out", **given, seeds=2)
    report, card = report_of(tmp_path / "out"), (tmp_path / "out" / "README.md").read_text()
    assert report["metrics"] == {}
    assert not any(report["baselines"].values())
    assert report["warnings"] == []
    assert "confusion_matrix" not in report
    assert not (tmp_path / "out" / "confusion_matrix.png").exists()
    assert "model-index" not in card
    assert "constant answer" not in capsys.readouterr().out


def test_descriptions_say_what_names_leave_out(encoder: Path, tmp_path: Path, given: dict[str, Any]) -> None:
    table = tmp_path / "classes.csv"
    table.write_text('label,description\n3,"green"\n1,"red"\n2,"blue"\n')
    rows = [
        {**row, "label": {"red": 1, "blue": 2, "green": 3}[row["label"]]}
        for row in examples_of("classification", 40, 1)
    ]
    given |= {"label_names_file": table, "test_file": write_rows(tmp_path / "test.jsonl", rows)}
    run("classification", encoder, tmp_path / "out", **given)
    report = report_of(tmp_path / "out")
    assert report["confusion_matrix"]["labels"] == ["1", "2", "3"]
    assert report["metrics"]["test"]["accuracy"]["mean"] > 0.9


def test_an_encoder_that_does_not_compare_texts_is_refused(tmp_path: Path, given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="needs a sentence encoder"):
        run("classification", save_encoder(tmp_path / "encoder"), tmp_path / "out", **given)
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize(
    ("names", "options", "error"),
    [
        ("red\n", {}, "at least two classes, got red"),
        ("red\nblue\nred\n", {}, "every class once, but it names red 2 times"),
        ("\n\n", {}, "at least two classes, got none"),
        ("text,description\nred,warm\n", {"suffix": ".csv"}, "must have a column label"),
        ("label,description\nred,warm\n,cold\n", {"suffix": ".csv"}, "row 2 has none"),
        ("\n".join(map(str, range(200))), {}, "at least 400 training texts, got 240"),
        ("red\nblue\n", {"test_file": None}, "the test examples have the labels green, but"),
        ("red\nblue\n", {"tuning": "lora"}, "needs --tuning auto or full, got --tuning lora"),
        ("red\nblue\n", {"task": "ner"}, "--label_names_file has no effect with --task ner"),
        ("red\nblue\n", {"validation_file": "other.csv"}, "--validation_file has no effect with --label_names_file"),
        ("red\nblue\n", {"calibrate": "yes", "test_file": ""}, "needs a --calibration_file"),
    ],
)
def test_mistakes_are_found_before_the_encoder_is_loaded(
    names: str, options: dict[str, Any], error: str, tmp_path: Path, given: dict[str, Any]
) -> None:
    options = {**given, **options}
    options["label_names_file"] = tmp_path / f"classes{options.pop('suffix', '.txt')}"
    options["label_names_file"].write_text(names)
    if options["test_file"] is None:
        options["test_file"] = given["test_file"]
    elif error != "":
        del options["test_file"]
    with pytest.raises(UsageError) as caught:
        run(options.pop("task", "classification"), tmp_path / "no-encoder", tmp_path / "out", **options)
    assert error in str(caught.value)
    assert not list(tmp_path.glob("*out*"))


def test_labels_are_neither_ignored_nor_mixed_with_names(tmp_path: Path, given: dict[str, Any]) -> None:
    rows = examples_of("classification", 60, 0)
    given["train_file"] = write_rows(
        tmp_path / "train.jsonl", [*rows[:9], *({**row, "label": None} for row in rows[9:])]
    )
    with pytest.raises(
        UsageError, match=r"9 of 60 examples have a label\. To train on these alone, leave out --label_names_file;"
    ):
        run("classification", tmp_path / "no-encoder", tmp_path / "out", **given)


@pytest.mark.parametrize("share", [0.5, 0.85])
def test_texts_tell_more_than_names_whatever_the_shares_of_classes(share: float) -> None:
    vectors, tokens, labels, names = corpus_of(share)
    found = find_classes(vectors, tokens, by_vectors(vectors, names), seed=0)
    by_names, right = (float((each == labels).mean()) for each in (found.by_names, found.labels))
    assert by_names < 0.8
    assert right > 0.95
    assert abs(found.estimate - right) < 0.1


def test_the_estimate_is_low_if_names_have_nothing_to_do_with_the_texts() -> None:
    vectors, tokens, _, names = corpus_of(0.5)
    others = np.random.default_rng(1).normal(size=names.shape)
    assert find_classes(vectors, tokens, by_vectors(vectors, others), seed=0).estimate < 0.6
