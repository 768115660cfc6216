"""Calibration of spans with any labels: scores say how often spans are right, and the model finds the same ones."""

from __future__ import annotations

import copy
import json
import random
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from sequence_encoder import calibrate, convert
from sequence_encoder.__main__ import main
from sequence_encoder.command_line import UsageError
from sequence_encoder.tests.fixtures.gliner_folders import LABELS, save_gliner

Rows = list[dict[str, Any]]
WORDS = ["a", "cat", "red", "dog", "of", "berlin", "model", "software", "animals", "lives"]
# By how much the logits are wrong.
SCALE, OFFSET = 0.6, -0.9


@pytest.fixture(scope="module")
def gliner(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("gliner")
    _, tokenizer = save_gliner(folder)
    return convert(folder), tokenizer


@pytest.fixture(scope="module")
def rows(gliner: tuple[Any, Any]) -> Rows:
    """Texts in which each span of the model is right as often as scaled logits say."""
    model, tokenizer = gliner
    rng = random.Random(0)
    texts = [rng.choices(WORDS, k=8) for _ in range(150)]
    found = model.extract([" ".join(words) for words in texts], LABELS, tokenizer, threshold=0.01)
    rows = []
    for words, spans in zip(texts, found, strict=True):
        text, entities = " ".join(words), []
        for span in spans:
            right = (torch.tensor(span["score"]).logit() * SCALE + OFFSET).sigmoid()
            if rng.random() < float(right):
                first, last = (text[: span[side]].count(" ") for side in ("start", "end"))
                entities.append([first, last, span["label"]])
        rows.append({"tokenized_text": words, "ner": entities, "ner_labels": list(LABELS)})
    return rows


@pytest.fixture(scope="module")
def calibrated(gliner: tuple[Any, Any], rows: Rows) -> tuple[Any, Any]:
    model = copy.deepcopy(gliner[0])
    return model, calibrate(model, gliner[1], rows)


def places(found: list[list[dict[str, Any]]]) -> list[list[tuple[Any, ...]]]:
    return [[(span["start"], span["end"], span["label"]) for span in spans] for spans in found]


def test_scores_say_how_often_spans_are_right_and_the_model_finds_the_same(
    gliner: tuple[Any, Any], calibrated: tuple[Any, Any], rows: Rows, tmp_path: Path
) -> None:
    (before, tokenizer), (model, report) = gliner, calibrated
    assert report.calibration.scaling["scale"] == pytest.approx(SCALE, abs=0.2)
    assert report.calibration.scaling["offset"] == pytest.approx(OFFSET, abs=0.3)
    metrics = report.calibration.facts["metrics"]
    for worse in ("expected_calibration_error", "answer_brier_score"):
        assert metrics["after"][worse] < metrics["before"][worse]
    assert "expected calibration error" in str(report)
    texts = [" ".join(row["tokenized_text"]) for row in rows[:40]]
    found, expected = (each.extract(texts, LABELS, tokenizer) for each in (model, before))
    assert any(expected)
    assert places(found) == places(expected)
    scaling = report.calibration.scaling
    for one, other in zip(chain(*found), chain(*expected), strict=True):
        logit = torch.tensor(other["score"]).logit() * scaling["scale"] + scaling["offset"]
        assert one["score"] == pytest.approx(float(logit.sigmoid()), abs=1e-4)
    ids = torch.arange(5, 11)[None]
    with torch.no_grad():
        lowest = [each(input_ids=ids).logits == torch.finfo(torch.float32).min for each in (model, before)]
    assert lowest[1].any()
    assert torch.equal(*lowest)
    model.save_pretrained(tmp_path)
    again: Any = AutoModel.from_pretrained(tmp_path)
    assert again.extract(texts, LABELS, tokenizer) == found
    assert again.calibration.scaling == scaling


def test_a_second_calibration_is_applied_after_the_first(
    calibrated: tuple[Any, Any], gliner: tuple[Any, Any], rows: Rows
) -> None:
    model = copy.deepcopy(calibrated[0])
    report = calibrate(model, gliner[1], rows)
    # Nothing is left to correct.
    assert report.calibration.scaling["scale"] == pytest.approx(1, abs=0.2)
    assert report.calibration.facts["earlier_scaling"] == calibrated[1].calibration.scaling
    text = " ".join(rows[0]["tokenized_text"])
    found, expected = (each.extract(text, LABELS, gliner[1]) for each in (model, gliner[0]))
    assert places([found]) == places([expected])


def test_labels_that_a_text_was_not_searched_for_do_not_count(gliner: tuple[Any, Any], rows: Rows) -> None:
    accuracies = []
    for stated in ({"ner_labels": LABELS[:1]}, {}):
        some = [
            {"tokenized_text": row["tokenized_text"], "ner": [each for each in row["ner"] if each[2] == LABELS[0]]}
            for row in rows
        ]
        examples = [*({**row, **stated} for row in some), rows[-1] if stated else {**rows[-1], "ner_labels": None}]
        accuracies.append(calibrate(copy.deepcopy(gliner[0]), gliner[1], examples).before.metrics()["accuracy"])
    # Spans with the other labels would be wrong.
    assert accuracies[0] > 1.2 * accuracies[1]


def test_the_command_reads_characters_and_writes_a_card(
    gliner: tuple[Any, Any], rows: Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, tokenizer = gliner
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    lines = []
    for row in rows:
        words = row["tokenized_text"]
        starts = [len(" ".join([*words[:place], ""])) for place in range(len(words))]
        spans = [{"start": starts[a], "end": starts[b] + len(words[b]), "label": label} for a, b, label in row["ner"]]
        lines.append(json.dumps({"text": " ".join(words), "ner_tags": spans}))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    command = f"calibrate {tmp_path / 'model'} --calibration_file {tmp_path / 'rows.jsonl'} --output_dir"
    main([*command.split(), str(tmp_path / "out")])
    assert "The logits of all spans are multiplied by" in capsys.readouterr().out
    assert "## Calibration" in (tmp_path / "out" / "README.md").read_text()
    saved: Any = AutoModel.from_pretrained(tmp_path / "out")
    assert saved.config.span_extraction["logit_scale"] == pytest.approx(SCALE, abs=0.2)
    own = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert saved.extract("a red dog", LABELS, own, threshold=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"away": ["text"] * 10}, "unfamiliar texts have no effect"),
        ({"coverages": (0.5,)}, "coverages have no effect"),
        ({"scaling": "vector"}, "scaling must be auto .* got 'vector'"),
        ({"examples": [{"tokenized_text": ["a"], "ner": []}]}, "must contain|no spans"),
        ({"examples": [{"tokenized_text": ["a"], "ner": [[0, 0, "cat"]]}]}, "must find at least 20 spans"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(
    options: dict[str, Any], message: str, gliner: tuple[Any, Any], rows: Rows
) -> None:
    model = copy.deepcopy(gliner[0])
    given = {"examples": rows, **options}
    with pytest.raises(UsageError, match=message):
        calibrate(model, gliner[1], given.pop("examples"), **given)
    assert model.config.span_extraction == gliner[0].config.span_extraction
