"""`sequence-encoder adapt` calibrates the model on the validation examples, or on others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification, pipeline

from sequence_encoder.command_line import UsageError
from sequence_encoder.tests.fixtures.adaptation_runs import examples_of, run, save_encoder, write_examples


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.mark.parametrize("tuning", ["full", "adapter"])
def test_the_validation_examples_calibrate_the_model_by_default(encoder: Path, tmp_path: Path, tuning: str) -> None:
    files = write_examples(tmp_path, "classification", {"train": 40, "validation": 200, "test": 20})
    output = tmp_path / "calibrated"
    results = run("classification", encoder, output, tuning=tuning, **files, max_steps=4, learning_rate=8e-3)
    report = json.loads((output / "results.json").read_text())
    written = json.loads((output / "calibration.json").read_text())
    assert written["texts"] == 200
    assert report["calibration"]["metrics"] == written["metrics"] == results.calibration["metrics"]
    card = (output / "README.md").read_text()
    assert card.count("## Calibration") == 1
    assert (output / "reliability.png").is_file()
    # The predictions of the report are those of the calibrated model.
    predicted = [json.loads(line)["prediction"] for line in (output / "predictions.jsonl").read_text().splitlines()]
    found = pipeline("text-classification", model=str(output))(
        [row["text"] for row in examples_of("classification", 20, 2)]
    )
    assert [each["label"] for each in found] == predicted
    assert all(each["labels"] and each["unfamiliarity"] for each in found)


def test_few_examples_calibrate_only_on_request(encoder: Path, tmp_path: Path) -> None:
    files = write_examples(tmp_path, "multi-label", {"train": 20, "validation": 10, "calibration": 30})
    options = {"max_steps": 1, **files}
    run("multi-label", encoder, tmp_path / "asked", **options)
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "asked").calibration.facts["texts"] == 30
    del options["calibration_file"]
    run("multi-label", encoder, tmp_path / "usual", **options)
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "usual").calibration is None
    with pytest.raises(UsageError, match=r"validation examples: coverages=0\.95 needs at least 19"):
        run("multi-label", encoder, tmp_path / "refused", **options, calibrate="yes")
    del options["validation_file"]
    with pytest.raises(UsageError, match="calibrate yes needs at least 48 training examples"):
        run("multi-label", encoder, tmp_path / "refused", **options, calibrate="yes")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tuning": "prompt", "calibrate": "yes"}, "--tuning must be one of auto, full, head, .* got prompt"),
        ({"calibrate": "no", "calibration_file": "train_file"}, "no effect with --calibrate no"),
        ({"task": "regression", "calibrate": "yes"}, "no effect with --task regression"),
    ],
)
def test_impossible_calibrations_are_refused(encoder: Path, tmp_path: Path, options: dict[str, str], said: str) -> None:
    files = write_examples(tmp_path, task := options.pop("task", "classification"), {"train": 60, "validation": 30})
    if "calibration_file" in options:
        options["calibration_file"] = files["validation_file"]
    with pytest.raises(UsageError, match=said):
        run(task, encoder, tmp_path / "out", **files, **options)
