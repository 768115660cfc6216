"""What an adaptation says of its results: warnings, the remarks of the card, the picture of the confusion matrix."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from sequence_encoder.hub.model_card import Training
from sequence_encoder.tests.adaptation_runs import run, save_encoder, write_examples
from sequence_encoder.training.adaptation.report import Result, Results, _short, complete


def results_of(score: float, **metrics: float) -> Results:
    """Those of one training, judged by the first of its metrics."""
    results = Results("regression", "full", metric=next(iter(metrics)))
    results.trainings.append(Result(0, {"validation": metrics}, 1.0, score, {}))
    return results


def test_remarks_of_a_card_are_whole_sentences() -> None:
    results = results_of(0.5, accuracy=0.5, loss=2.0)
    results.baselines = {"before_training": {"validation": {"accuracy": 0.5, "loss": 1.0}}}
    remarks = complete(Training(), results, "an encoder", {"train": "train.csv"}, "text-classification").remarks
    assert remarks is not None
    assert re.findall(r"\.+(?= |$)", remarks) == [".", "."]


def test_a_metric_that_is_no_number_is_told() -> None:
    (warning,) = results_of(math.nan, spearman=math.nan).warnings()
    assert "spearman on the validation examples is not a number" in warning


@pytest.mark.parametrize(("before", "told"), [(1.0, 0), (0.0, 1)])
def test_an_error_of_zero_counts_as_the_best(before: float, told: int) -> None:
    results = results_of(-0.0, rmse=0.0)
    results.baselines = {"before_training": {"validation": {"rmse": before}}}
    assert len(results.warnings()) == told


def test_long_labels_stay_different_in_the_picture() -> None:
    labels = [f"a complaint about a parcel of kind {kind} in {place}" for kind in (1, 2) for place in ("Rome", "Oslo")]
    short = _short([*labels, "costs $5"])
    assert len(set(short)) == len(short)
    assert max(map(len, short)) <= 28
    assert short[-1] == r"costs \$5"


def test_the_code_of_the_card_of_prompts_runs_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write_examples(tmp_path, "classification", {"train": 40})
    encoder = save_encoder(tmp_path / "encoder")
    run("classification", encoder, tmp_path / "out", tuning="prompt", num_train_epochs=1, **files)
    for folder in (tmp_path / "out", tmp_path / "out" / "adapter"):
        monkeypatch.chdir(folder)
        (lines,) = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
        ran: dict[str, object] = {}
        exec(lines, ran)
        assert type(ran["model"]).__name__ == "PeftModelForSequenceClassification"
