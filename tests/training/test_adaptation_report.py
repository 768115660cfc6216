"""The report of an adaptation: warnings, and the remarks on the card."""

from __future__ import annotations

import math
import re

import pytest

from sequence_encoder.hub.card.card import Training
from sequence_encoder.training.adaptation.report import Result, Results, _short
from sequence_encoder.training.adaptation.setups.head_files import complete


def results_of(score: float, **metrics: float) -> Results:
    """Return the results of one training, selected by the first of its metrics."""
    results = Results("regression", "full", metric=next(iter(metrics)))
    results.trainings.append(Result(0, {"validation": metrics}, 1.0, score, {}))
    return results


def test_remarks_on_a_card_are_whole_sentences() -> None:
    results = results_of(0.5, accuracy=0.5, loss=2.0)
    results.baselines = {"before_training": {"validation": {"accuracy": 0.5, "loss": 1.0}}}
    remarks = complete(Training(), results, "an encoder", {"train": "train.csv"}, "text-classification").remarks
    assert remarks is not None
    assert re.findall(r"\.+(?= |$)", remarks) == ["."] * 4


def test_a_nan_metric_is_reported() -> None:
    (warning,) = results_of(math.nan, spearman=math.nan).warnings()
    assert "spearman on the validation examples is NaN" in warning


@pytest.mark.parametrize(("accuracy", "warnings"), [(0.0, 1), (0.1, 0)])
def test_a_model_that_is_never_right_is_reported(accuracy: float, warnings: int) -> None:
    results = results_of(-2.0, nats_per_token=2.0, accuracy=accuracy)
    results.baselines = {"before_training": {"validation": {"nats_per_token": 3.0, "accuracy": 0.0}}}
    assert ["has not learned the task yet" in warning for warning in results.warnings()] == [True] * warnings


def test_examples_that_are_too_easy_do_not_say_that_training_was_useless() -> None:
    results = results_of(1.0, ndcg=1.0)
    results.baselines = {"before_training": {"validation": {"ndcg": 1.0}}}
    (warning,) = results.warnings()
    assert warning.startswith("ndcg on the validation examples is 1, also before training, so they do not show whether")
    results.baselines["before_training"]["validation"]["ndcg"] = 0.99
    assert results.warnings() == []


@pytest.mark.parametrize(("linear", "warnings"), [(0.92939, 0), (0.9296, 1)])
def test_a_linear_model_is_not_better_by_less_than_is_shown(linear: float, warnings: int) -> None:
    results = results_of(0.92935, spearman=0.92935)
    results.baselines = {"linear_tfidf": {"validation": {"spearman": linear}}}
    assert len(results.warnings()) == warnings


@pytest.mark.parametrize(
    ("tuning", "advice"),
    [
        ("full", "train for more epochs or from another encoder, or use the linear model."),
        ("lora", "train for more epochs, with --tuning full or from another encoder, or use the linear model."),
    ],
)
def test_a_linear_model_that_is_better_on_the_test_examples_is_reported(tuning: str, advice: str) -> None:
    results = Results("classification", tuning, metric="accuracy")
    metrics = {"validation": {"accuracy": 0.9}, "test": {"accuracy": 0.8}}
    results.trainings.append(Result(0, metrics, 1.0, 0.9, {}))
    results.baselines = {
        "before_training": {"validation": {"accuracy": 0.5}, "test": {"accuracy": 0.5}},
        "linear_tfidf": {"validation": {"accuracy": 0.9}, "test": {"accuracy": 0.85}},
    }
    (warning,) = results.warnings()
    assert warning.startswith("accuracy on the test examples is 0.8, compared with 0.85 for a linear model of TF-IDF")
    assert warning.endswith(f": {advice}")


def test_shortened_labels_stay_distinct_in_the_plot() -> None:
    labels = [f"a complaint about a parcel of kind {kind} in {place}" for kind in (1, 2) for place in ("Rome", "Oslo")]
    short = _short([*labels, "costs $5"])
    assert len(set(short)) == len(short)
    assert max(map(len, short)) <= 28
    assert short[-1] == r"costs \$5"
