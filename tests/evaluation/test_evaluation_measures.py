"""The measures of `evaluate` are those of the literature: metrics, shift of inputs and of labels, and estimates."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, matthews_corrcoef, roc_auc_score
from transformers import AutoTokenizer, pipeline

from sequence_encoder import SequenceEncoderForSequenceClassification, correct_label_shift, match_label_shares
from sequence_encoder.evaluation.judging import Judged
from sequence_encoder.evaluation.metrics import (
    auroc,
    classification_sums,
    confidence_sums,
    multi_label_sums,
    reliability,
    risk_coverage,
)
from sequence_encoder.evaluation.shift.estimates import estimates_of, temperature_of, transport_costs, with_temperature
from sequence_encoder.evaluation.shift.label_correction import matching_bias
from sequence_encoder.evaluation.shift.label_shift import label_shift
from sequence_encoder.evaluation.shift.shift import input_shift
from sequence_encoder.tests.fixtures.adaptation_runs import examples_of, save_encoder

RANDOM = np.random.default_rng(0)
KNOWN = RANDOM.integers(0, 3, 400)
PREDICTED = np.where(RANDOM.random(400) < 0.7, KNOWN, RANDOM.integers(0, 3, 400))


def judged(probabilities: np.ndarray, known: np.ndarray | None) -> Judged:
    predicted = probabilities.argmax(1)
    correct = None if known is None else predicted == known
    owner = np.arange(len(predicted))
    return Judged(probabilities.max(1), owner, predicted, correct=correct, probabilities=probabilities, known=known)


def texts_of_classes(
    count: int, shares: list[float], scale: float = 1.5, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return calibrated probabilities of a classifier for equal shares of two classes, and labels with other shares."""
    generator = np.random.default_rng(seed)
    known = generator.choice(2, count, p=shares)
    evidence = generator.normal(np.where(known == 1, scale / 2, -scale / 2), 1)
    positive = 1 / (1 + np.exp(-scale * evidence))
    return np.stack([1 - positive, positive], axis=1), known


def test_metrics_of_labels_are_those_of_scikit_learn() -> None:
    found = classification_sums(PREDICTED, KNOWN, 4).values()
    assert found["accuracy"] == pytest.approx((PREDICTED == KNOWN).mean())
    assert found["f1"] == pytest.approx(f1_score(KNOWN, PREDICTED, average="macro"))
    assert found["matthews_correlation"] == pytest.approx(matthews_corrcoef(KNOWN, PREDICTED))
    true, guessed = RANDOM.random((100, 5)) < 0.4, RANDOM.random((100, 5)) < 0.4
    several = multi_label_sums(guessed, true).values()
    assert several["f1"] == pytest.approx(f1_score(true, guessed, average="micro"))
    assert several["f1_macro"] == pytest.approx(f1_score(true, guessed, average="macro"))
    assert several["accuracy"] == pytest.approx((true == guessed).all(1).mean())


def test_bootstrap_intervals_have_the_width_of_theory_and_do_not_change() -> None:
    sums = classification_sums(PREDICTED, KNOWN, 3)
    accuracy = sums.estimates(2000, 0)["accuracy"]
    half = 1.96 * np.sqrt(accuracy.value * (1 - accuracy.value) / 400)
    assert accuracy.low == pytest.approx(accuracy.value - half, abs=0.006)
    assert accuracy.high == pytest.approx(accuracy.value + half, abs=0.006)
    assert sums.estimates(200, 1) == sums.estimates(200, 1) != sums.estimates(200, 2)


def test_the_interval_of_the_calibration_error_allows_for_its_bias() -> None:
    # Few texts of a model that is hardly wrong about its confidence: bootstrap samples have larger errors than they.
    probabilities, known = texts_of_classes(300, [0.5, 0.5], 1.5, 4)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == known
    error = confidence_sums(confidence, right, confidence, np.arange(300)).estimates(200, 0)[
        "expected_calibration_error"
    ]
    assert 0 <= error.low <= 0.005
    assert error.low < error.value <= error.high < 2 * error.value


def test_the_calibration_error_is_the_gap_of_the_bins() -> None:
    confidence, correct = np.array([0.9, 0.9, 0.9, 0.9, 0.55, 0.55]), np.array([1.0, 1, 1, 0, 1, 0])
    found = confidence_sums(confidence, correct, (confidence - correct) ** 2, np.array([0, 0, 1, 1, 2, 2])).values()
    assert found["expected_calibration_error"] == pytest.approx((4 * 0.15 + 2 * 0.05) / 6)
    assert found["brier_score"] == pytest.approx(((confidence - correct) ** 2).mean())
    assert [row["answers"] for row in reliability(confidence, correct)] == [2, 4]


def test_risk_and_coverage_take_ties_together() -> None:
    area, curve = risk_coverage(np.array([0.9, 0.8, 0.8, 0.5]), np.array([1.0, 1, 0, 0]))
    assert area == pytest.approx((0 + 0.25 + 1 / 3 + 0.5) / 4)
    assert curve[-1] == (1.0, 0.5)
    home, away = RANDOM.normal(size=50).round(1), RANDOM.normal(1, size=60).round(1)
    known = np.repeat([0, 1], [50, 60])
    assert auroc(home, away) == pytest.approx(roc_auc_score(known, np.concatenate([home, away])))


def test_a_shift_of_the_texts_is_found_with_the_texts_that_show_it() -> None:
    vectors = np.random.default_rng(0).normal(size=(600, 8))
    names = [f"text {index}" for index in range(300)]
    same = input_shift(vectors[:300], vectors[300:], names, names, seed=0)
    assert same.p_value > 0.05
    away = vectors[300:].copy()
    away[:60, 0] += 6
    shifted = input_shift(vectors[:300], away, names, names, seed=0)
    assert shifted.p_value < 0.001
    assert shifted.auroc > 0.55
    assert {int(text.split()[1]) < 60 for text, _ in shifted.texts} == {True}


def test_shares_of_labels_are_estimated_from_predictions() -> None:
    home, known = texts_of_classes(4000, [0.5, 0.5])
    away, _ = texts_of_classes(3000, [0.8, 0.2], seed=1)
    found = label_shift(home, known, away, 200, 0)
    assert found.shares[0].low < 0.8 < found.shares[0].high
    assert found.shares[0].high - found.shares[0].low < 0.1
    assert found.maximum_likelihood[0] == pytest.approx(0.8, abs=0.03)
    assert found.p_value < 0.001
    assert found.fit > 0.05
    few, known_of_few = texts_of_classes(4000, [0.3, 0.7], seed=3)
    assert label_shift(few, known_of_few, away, 5, 0).shares[0].value == pytest.approx(0.8, abs=0.04)
    # Classes that are harder to tell apart are another shift, which the shares of the labels cannot explain.
    assert label_shift(home, known, texts_of_classes(3000, [0.8, 0.2], 0.5, 1)[0], 20, 0).fit < 0.01
    assert label_shift(home, known, texts_of_classes(3000, [0.5, 0.5], seed=2)[0], 20, 0).p_value > 0.05


def test_accuracy_is_estimated_without_labels() -> None:
    home = judged(*texts_of_classes(4000, [0.5, 0.5], 2.5))
    probabilities, known = texts_of_classes(4000, [0.5, 0.5], 1.2, 1)
    found = estimates_of(home, judged(probabilities, None))
    true = (probabilities.argmax(1) == known).mean()
    assert home.correct is not None
    assert home.correct.mean() - true > 0.1
    for name in ("confidence", "confidence_difference", "transport", "thresholds_and_transport"):
        assert found[name] == pytest.approx(true, abs=0.05), name
    assert found["thresholds_and_transport"] == (found["transport"] + found["thresholded_confidence"]) / 2
    at_home = estimates_of(home, home, [(home, home)])
    assert at_home["thresholded_confidence"] == pytest.approx(home.correct.mean(), abs=0.002)
    assert at_home["agreement"] == pytest.approx(home.correct.mean())


def test_scores_that_are_too_confident_are_scaled_first() -> None:
    probabilities, known = texts_of_classes(2000, [0.5, 0.5], 1.5)
    extreme = with_temperature(probabilities, 0.3)
    assert temperature_of(extreme, known) == pytest.approx(1 / 0.3, rel=0.15)
    found = estimates_of(judged(extreme, known), judged(extreme, None))
    assert found["confidence"] == pytest.approx(probabilities.max(1).mean(), abs=0.02)


def test_confidences_that_are_equal_have_the_share_of_right_answers() -> None:
    certain, known = np.tile([1.0, 0.0], (50, 1)), np.repeat([0, 1], [45, 5])
    found = estimates_of(judged(certain, known), judged(certain[:20], None))
    assert found["thresholded_confidence"] == pytest.approx(0.9)
    all_right = estimates_of(judged(certain[:45], known[:45]), judged(certain[:20], None))
    assert all_right["thresholded_confidence"] == 1


def test_transport_gives_each_label_its_share() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    costs = transport_costs(probabilities, np.array([0.5, 0.5]), 0)
    assert costs == pytest.approx([0.1, 0.2, 0.7, 0.6])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Return a classifier with three labels and its tokenizer."""
    encoder = save_encoder(tmp_path_factory.mktemp("encoder"))
    torch.manual_seed(0)
    labels = {"id2label": dict(enumerate("abc")), "label2id": {name: place for place, name in enumerate("abc")}}
    model = SequenceEncoderForSequenceClassification.from_pretrained(encoder, **labels)
    return model, AutoTokenizer.from_pretrained(encoder)


def test_a_classifier_is_corrected_for_other_shares(tiny: tuple[Any, Any]) -> None:
    model, ids = tiny[0], torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        before = model(ids).logits.softmax(-1)[0]
        correct_label_shift(model, [0.5, 0.25, 0.25], [0.8, 0.1, 0.1])
        after = model(ids).logits.softmax(-1)[0]
    assert torch.allclose(after[0] / after[1], 4 * before[0] / before[1], rtol=1e-4)


def test_a_classifier_gives_labels_in_given_shares(tiny: tuple[Any, Any]) -> None:
    texts = [row["text"] for row in examples_of("classification", 200, 0)]
    match_label_shares(*tiny, texts, {"a": 0.2, "b": 0.3, "c": 0.5})
    classify = pipeline("text-classification", model=tiny[0], tokenizer=tiny[1])
    found = Counter(result["label"] for result in classify(texts))
    assert {label: found[label] / 200 for label in "abc"} == pytest.approx({"a": 0.2, "b": 0.3, "c": 0.5}, abs=0.05)
    probabilities = np.random.default_rng(0).random((100, 1)) * [1, -1] + [0, 1]
    bias = matching_bias(probabilities, np.array([0.3, 0.7]))
    assert (np.log(probabilities) + bias).argmax(1).sum() == 70


def test_labels_of_pairs_are_matched_as_pairs(tiny: tuple[Any, Any]) -> None:
    pairs = [(row["text"], f"dog {index % 7}") for index, row in enumerate(examples_of("classification", 60, 5))]
    match_label_shares(*tiny, pairs, {"a": 0.2, "b": 0.3, "c": 0.5})
    classify = pipeline("text-classification", model=tiny[0], tokenizer=tiny[1])
    found = Counter(classify({"text": one, "text_pair": other})["label"] for one, other in pairs)
    assert [found[label] for label in "abc"] == pytest.approx([12, 18, 30], abs=3)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([0.5, 0.6, 0.1], r"shares must have 3 positive numbers with the sum 1, got \[0.5, 0.6, 0.1\]"),
        ([0.5, 0.5], "shares must have 3 positive numbers"),
        ([1.0, 0.0, 0.0], "shares must have 3 positive numbers"),
        ({"a": 0.5, "d": 0.5}, "shares must have the labels a, b, c, got a, d"),
    ],
)
def test_impossible_shares_are_refused(tiny: tuple[Any, Any], shares: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        match_label_shares(*tiny, ["red cat", "dog"], shares)


def test_texts_to_match_are_checked(tiny: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match="at least two texts, got 1"):
        match_label_shares(*tiny, ["red"], [0.2, 0.3, 0.5])
    with pytest.raises(ValueError, match="at least two texts, got a text"):
        match_label_shares(*tiny, "red cat", [0.2, 0.3, 0.5])
    with pytest.raises(ValueError, match="max_length must be at least 3, got 2"):
        match_label_shares(*tiny, ["red", "cat"], [0.2, 0.3, 0.5], max_length=2)
    with pytest.raises(ValueError, match="not blank in every row"):
        match_label_shares(*tiny, ["red", "  "], [0.2, 0.3, 0.5])
