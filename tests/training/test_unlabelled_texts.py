"""`sequence-encoder adapt --unlabelled_file`: classifiers from a few labels and more texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sequence_encoder.command_line import UsageError
from sequence_encoder.tests.fixtures.adaptation_runs import (
    FILLERS,
    corpus_of,
    examples_of,
    run,
    save_encoder,
    write_examples,
    write_rows,
)
from sequence_encoder.training.adaptation.examples.cross_validation import OutOfFold, prefers_linear
from sequence_encoder.training.adaptation.examples.self_training import spread_labels
from sequence_encoder.training.adaptation.examples.unlabelled_texts import SelfTrainedFit, clearly_lower
from sequence_encoder.training.adaptation.linear_head import LinearFit


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return options that name 12 labelled examples and 60 to test on."""
    folder = tmp_path_factory.mktemp("examples")
    return {**write_examples(folder, "classification", {"train": 12, "test": 60}), "num_train_epochs": 1}


@pytest.fixture
def given(tmp_path: Path, labelled: dict[str, Any]) -> dict[str, Any]:
    """Return options that also name 188 texts without labels, and the labelled texts once more."""
    rows = [*examples_of("classification", 188, 2), *examples_of("classification", 12, 0)]
    # These labels are wrong, so that reading them would show.
    texts = write_rows(tmp_path / "texts.jsonl", [{**row, "label": "red"} for row in rows])
    return {**labelled, "unlabelled_file": texts}


@pytest.fixture(scope="module")
def alone(encoder: Path, labelled: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train on the labelled examples alone."""
    folder = tmp_path_factory.mktemp("alone") / "out"
    run("classification", encoder, folder, **labelled)
    return folder


def report_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "results.json").read_text()))


def test_more_texts_make_a_classifier_better(
    alone: Path, encoder: Path, tmp_path: Path, given: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    run("classification", encoder, tmp_path / "out", **given)
    report, printed = report_of(tmp_path / "out"), capsys.readouterr().out
    accuracies = [found["metrics"]["test"]["accuracy"]["mean"] for found in (report, report_of(alone))]
    assert accuracies[0] > accuracies[1] + 0.1
    assert report["tuning"] == "linear"
    assert "Plan for" not in printed
    assert report["unlabelled"]["used"]
    assert report["unlabelled"]["loss_with_them"] < report["unlabelled"]["loss_without_them"]
    for text in (printed, (tmp_path / "out" / "README.md").read_text()):
        assert report["unlabelled"]["summary"] in text
    # A finished run is only taken for the same one with the same texts.
    run("classification", encoder, tmp_path / "out", **given, resume=True)
    write_rows(Path(given["unlabelled_file"]), [{"text": "red"}])
    with pytest.raises(FileExistsError):
        run("classification", encoder, tmp_path / "out", **given, resume=True)


def test_texts_that_do_not_help_change_nothing(
    alone: Path, encoder: Path, tmp_path: Path, labelled: dict[str, Any]
) -> None:
    rng = np.random.default_rng(0)
    texts = [{"text": " ".join(rng.choice(FILLERS, 6))} for _ in range(100)]
    file = write_rows(tmp_path / "others.jsonl", texts)
    run("classification", encoder, tmp_path / "out", **labelled, unlabelled_file=file)
    report = report_of(tmp_path / "out")
    assert not report["unlabelled"]["used"]
    assert report["unlabelled"]["summary"].endswith("; they are not used.")
    found, expected = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", alone))
    torch.testing.assert_close(found, expected)


def test_metrics_are_about_labelled_examples_only(encoder: Path, tmp_path: Path, given: dict[str, Any]) -> None:
    del given["test_file"]
    names = tmp_path / "names.txt"
    names.write_text("red\ngreen\nblue\n")
    run("classification", encoder, tmp_path / "out", **given, label_names_file=names)
    report = report_of(tmp_path / "out")
    assert report["confusion_matrix"]["split"] == "validation"
    assert sum(map(sum, report["confusion_matrix"]["counts"])) == 12
    assert report["unlabelled"]["texts"] == 188
    assert "labelling" not in report


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"task": "ner"}, "--unlabelled_file has no effect with --task ner"),
        ({"tuning": "lora"}, "--unlabelled_file needs --tuning auto or full, got --tuning lora"),
        (
            {"label_names_file": "red\nblue\n"},
            "the labels of the training examples, blue, green, red, got red, blue.",
        ),
        ({"unlabelled_file": None}, "has no other texts than the training examples"),
        ({"rows": [{"texts": "red"}]}, "--text_column text is not in the unlabelled examples; choose one of texts"),
        ({"rows": [{"text": "red"}, {"text": None}]}, "texts.jsonl"),
    ],
)
def test_mistakes_are_found_before_the_encoder_is_loaded(
    options: dict[str, Any], error: str, tmp_path: Path, given: dict[str, Any]
) -> None:
    if rows := options.pop("rows", None):
        write_rows(tmp_path / "texts.jsonl", rows)
    options = {**given, **options}
    if names := options.pop("label_names_file", None):
        options["label_names_file"] = tmp_path / "names.txt"
        options["label_names_file"].write_text(names)
    options["unlabelled_file"] = options["unlabelled_file"] or given["train_file"]
    if options.get("task"):
        del options["test_file"]
    with pytest.raises(UsageError) as caught:
        run(options.pop("task", "classification"), tmp_path / "no-encoder", tmp_path / "out", **options)
    assert error in str(caught.value)


def fits(share: float, chosen: list[int], swapped: bool | None = None) -> tuple[LinearFit, SelfTrainedFit, Any, Any]:
    """Return the fits to chosen texts of a corpus alone and to all, and the vectors and labels of all.

    Args:
        share: See `corpus_of`.
        chosen: The texts that have labels.
        swapped: Whether the names of the classes are swapped; None for no names.
    """
    vectors, tokens, labels, names = corpus_of(share)
    others = np.setdiff1d(np.arange(600), chosen)
    alone = LinearFit("single_label_classification", vectors[chosen], labels[chosen], 2)
    ids = [tokens[index] for index in [*chosen, *others]]
    return (
        alone,
        SelfTrainedFit(alone, vectors[others], ids, None if swapped is None else names[:: -1 if swapped else 1]),
        vectors,
        labels,
    )


def first_of_each(share: float, count: int) -> list[int]:
    labels = corpus_of(share)[2]
    return [int(index) for label in (0, 1) for index in np.flatnonzero(labels == label)[:count]]


@pytest.mark.parametrize("share", [0.5, 0.85])
def test_texts_tell_more_than_a_few_labels_whatever_the_shares_of_classes(share: float) -> None:
    alone, together, vectors, labels = fits(share, first_of_each(share, 8))
    head = together.head()
    right = [float((each(vectors).argmax(1) == labels).mean()) for each in (alone.head(), head)]
    assert right[1] > max(0.75, right[0] + 0.1)
    # The labelled examples have both classes in equal shares, to which the shift leads.
    assert np.subtract(*head.shift) == pytest.approx(-np.log(share / (1 - share)), abs=0.3)


def test_labels_that_are_given_stay_even_if_wrong() -> None:
    vectors, tokens, labels, _ = corpus_of(0.5)
    known = np.where(np.arange(40) < 3, 1 - labels[:40], labels[:40])
    found = spread_labels(vectors, tokens, known, np.eye(2)[labels])
    np.testing.assert_array_equal(found[:40], known)
    assert (found[40:] == labels[40:]).mean() > 0.9


@pytest.mark.parametrize(("gained", "clear"), [(0.1, False), (0.5, True), (-0.5, False)])
def test_texts_must_lower_the_loss_by_more_than_the_standard_error(gained: float, clear: bool) -> None:
    # The standard error is 0.25.
    losses = np.tile([1.0, 3.0], 8)
    assert clearly_lower(losses, np.full(16, 2.0 + gained)) == clear


def test_a_choice_does_not_depend_on_how_frequent_classes_are_elsewhere() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(100) % 2
    good = 3 * np.eye(2)[labels] + rng.normal(size=(100, 2))
    worse, shift = good + rng.normal(size=(100, 2)), np.array([4.0, 0.0])
    linear, _ = prefers_linear("single_label_classification", OutOfFold(worse, good - shift, shift), labels)
    assert linear
