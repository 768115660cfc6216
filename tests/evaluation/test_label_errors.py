"""Labels that are planted wrong are found by scores of models that have not learned from them; `adapt` lists them."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest

from sequence_encoder.evaluation.label_errors import LabelErrors, as_csv, find_label_errors
from sequence_encoder.tests.fixtures.adaptation_runs import (
    ANIMALS,
    COLOURS,
    FILLERS,
    arguments,
    examples_of,
    run,
    save_encoder,
)
from sequence_encoder.training.adaptation.run import parse
from sequence_encoder.training.adaptation.steps import push

CLASSES = ("a", "b", "c", "d")


def planted(share: float, spread: float, views: int = 1) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Return noisy logits of 800 examples by some models, their labels, and which of them are wrong."""
    generator, count, classes = np.random.default_rng(0), 800, len(CLASSES)
    true = generator.integers(0, classes, count)
    logits = [4.0 * np.eye(classes)[true] + spread * generator.normal(size=(count, classes)) for _ in range(views)]
    wrong = np.zeros(count, bool)
    wrong[generator.choice(count, round(share * count), replace=False)] = True
    moved = (true + generator.integers(1, classes, count)) % classes
    return logits, np.where(wrong, moved, true), wrong


def found_in(logits: Any, known: np.ndarray) -> LabelErrors:
    return find_label_errors(logits, known, CLASSES, [f"text {index}" for index in range(len(known))])


@pytest.mark.parametrize("scale", [0.2, 1, 30])
def test_planted_errors_are_found_by_logits_of_any_temperature(scale: float) -> None:
    logits, known, wrong = planted(0.1, spread=1.5)
    found = found_in([scale * logits[0]], known)
    named = [each.index for each in found.found]
    assert wrong[named].mean() > 0.7
    assert wrong[named].sum() > 0.7 * wrong.sum()
    assert found.share == pytest.approx(0.1, abs=0.03)
    assert [each.wrong for each in found.found] == sorted((each.wrong for each in found.found), reverse=True)
    assert all(each.suggested != each.label == CLASSES[known[each.index]] for each in found.found)
    assert wrong[named[:20]].all()


def test_a_model_that_is_often_wrong_names_no_labels() -> None:
    logits, known, _ = planted(0, spread=5)
    contradicted = (logits[0].argmax(1) != known).mean()
    assert contradicted > 0.3
    assert found_in(logits, known) == LabelErrors(len(known))
    assert str(found_in(logits, known)) == ""


def test_two_models_find_more_than_one() -> None:
    (first, second), known, wrong = planted(0.1, spread=2.5, views=2)
    one, both = (found_in(views, known) for views in ([first], [first, 7 * second]))
    hits = [sum(wrong[each.index] for each in found.found) for found in (one, both)]
    assert hits[1] > 1.2 * hits[0]


def test_the_table_names_the_place_of_each_label() -> None:
    logits, known, wrong = planted(0.1, spread=0.5)
    found = found_in(logits, known)
    rows = list(csv.DictReader(as_csv(found.at({index: f"line {index + 2}" for index in range(800)})).splitlines()))
    assert {row["place"] for row in rows} == {f"line {index + 2}" for index in np.flatnonzero(wrong)}
    assert rows[0]["label"] != rows[0]["suggested_label"]
    assert float(rows[0]["wrong"]) > 0.9 > float(rows[0]["label_score"])


def test_adapt_lists_wrong_labels_and_uploads_no_texts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, output, file = save_encoder(tmp_path / "encoder"), tmp_path / "out", tmp_path / "train.csv"
    rng, rows, wrong = random.Random(0), [], set(range(0, 120, 12))
    for index in range(120):
        colour, words = rng.choice(COLOURS), rng.choices([*FILLERS, *ANIMALS], k=rng.randrange(12))
        words.insert(rng.randrange(len(words) + 1), colour)
        label = COLOURS[COLOURS.index(colour) - 1] if index in wrong else colour
        rows.append({"text": f"{' '.join(words)} n{index}", "label": label})
    file.write_text("label,text\n" + "".join(f"{row['label']},{row['text']}\n" for row in rows))
    run("classification", encoder, output, train_file=file, test_file=file, num_train_epochs=1, tuning="adapter")
    with (output / "suspicious_labels.csv").open(encoding="utf-8-sig", newline="") as table:
        listed = list(csv.DictReader(table))
    report = json.loads((output / "results.json").read_text())["label_errors"]
    # The others are held out for validation.
    assert report["checked"] == 108
    assert report["suspicious"] == len(listed)
    assert report["estimated_share"] == pytest.approx(1 / 12, abs=0.05)
    named = {int(row["place"].split()[1]) - 2 for row in listed}
    assert len(named & wrong) >= max(6, 0.8 * len(named))
    assert all(rows[int(row["place"].split()[1]) - 2]["text"] == row["text"] for row in listed)
    said = f"{len(listed)} of {report['checked']} labels"
    assert f"{said} look wrong, first of all " in capsys.readouterr().out
    card = (output / "README.md").read_text()
    assert f"{said} of the training examples look wrong." in card
    assert not any(row["text"] in card for row in rows)
    uploaded: list[str] = []
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda *given, **others: huggingface_hub.RepoUrl("a/b"))
    monkeypatch.setattr(
        huggingface_hub.HfApi, "upload_folder", lambda *given, **others: uploaded.extend(others["allow_patterns"])
    )
    written = {path.name for path in output.iterdir()}
    push(parse(arguments("classification", encoder, output, train_file=file)), written)
    assert written - set(uploaded) == {"predictions.jsonl", "suspicious_labels.csv"}


def test_equal_texts_with_different_labels_are_reported_and_share_a_fold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = examples_of("classification", 30, 0)
    rows += [{**rows[3], "label": COLOURS[COLOURS.index(rows[3]["label"]) - 1]}, rows[4]]
    file = tmp_path / "train.jsonl"
    # The first line has no label yet, and is left out.
    file.write_text("".join(json.dumps(row) + "\n" for row in [{"text": "which ?"}, *rows]))
    encoder = save_encoder(tmp_path / "encoder")
    run("classification", encoder, tmp_path / "out", train_file=file, num_train_epochs=1)
    assert (
        f"1 training text has different labels: for example, {rows[3]['label']} in line 5 of {file}, and "
        f"{rows[30]['label']} in line 32 of {file}."
    ) in capsys.readouterr().out
