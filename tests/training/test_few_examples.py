"""`sequence-encoder adapt` on few examples: heads from a linear fit, cross-validation, and training on all examples."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from transformers import Trainer

from sequence_encoder.command_line import UsageError
from sequence_encoder.tests.fixtures.adaptation_runs import examples_of, run, save_encoder
from sequence_encoder.training.adaptation.examples.cross_validation import OutOfFold, folds_of, prefers_linear
from sequence_encoder.training.adaptation.linear_head import LinearFit
from sequence_encoder.training.adaptation.plan import plan_for

# A training that hardly changes the head that it starts from.
SLOW: dict[str, Any] = {"num_train_epochs": 2, "learning_rate": 1e-5}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"), classifier_dropout=0.1)


def write(file: Path, rows: list[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def without_pattern(count: int) -> list[dict[str, Any]]:
    """Return examples whose labels nothing tells but memory, so that training and a linear head are as good."""
    labels = random.Random(0)
    rows = enumerate(examples_of("classification", count, 0))
    return [{"text": f"{row['text']} w{index}", "label": labels.choice("ab")} for index, row in rows]


def report_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "results.json").read_text()))


def test_every_example_is_judged_out_of_fold_and_trained_on(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes: list[int] = []
    train = Trainer.train

    def watched(self: Any, *given: Any, **options: Any) -> Any:
        sizes.append(len(self.train_dataset))
        return train(self, *given, **options)

    monkeypatch.setattr(Trainer, "train", watched)
    file = write(tmp_path / "train.jsonl", without_pattern(60))
    run("classification", encoder, tmp_path / "out", train_file=file, **SLOW)
    report = report_of(tmp_path / "out")
    assert sizes == [40, 40, 40, 60]
    assert report["tuning"] == "full"
    assert sum(map(sum, report["confusion_matrix"]["counts"])) == 60
    assert report["choice_of_tuning"] in capsys.readouterr().out
    assert report["choice_of_tuning"] in (tmp_path / "out" / "README.md").read_text()
    assert "60 held-out examples" in report["choice_of_tuning"]
    assert report["baselines"].keys() == {"linear_head", "constant_answer", "linear_tfidf"}
    transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")


def test_no_model_is_judged_on_what_it_has_learned(encoder: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "train.jsonl", without_pattern(60))
    run("classification", encoder, tmp_path / "out", train_file=file, num_train_epochs=4, learning_rate=1e-2)
    report = report_of(tmp_path / "out")
    scores = {name: found["validation"]["accuracy"] for name, found in report["baselines"].items()}
    scores["model"] = report["metrics"]["validation"]["accuracy"]["mean"]
    assert all(score < 0.75 for score in scores.values()), scores


def test_an_interrupted_run_keeps_its_folds_and_ends_with_the_same_model(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 9 steps for each fold and 12 for all examples.
    options: dict[str, Any] = {**SLOW, "num_train_epochs": 3, "per_device_train_batch_size": 16}
    options |= {"save_strategy": "steps", "save_steps": 2}
    options["train_file"] = write(tmp_path / "train.jsonl", without_pattern(60))
    run("classification", encoder, tmp_path / "whole", **options)
    step, steps = Trainer.training_step, Counter[Any]()

    def counted(self: Any, *given: Any, **others: Any) -> Any:
        if (stop := (steps["steps"], self.state.global_step)) in ((28, 1), (38, 10)) and not steps[stop]:
            steps[stop] += 1
            raise KeyboardInterrupt
        steps["steps"] += 1
        return step(self, *given, **others)

    monkeypatch.setattr(Trainer, "training_step", counted)
    with pytest.raises(KeyboardInterrupt, match="keeps 3 finished folds\\. Continue"):
        run("classification", encoder, tmp_path / "parts", **options)
    with pytest.raises(KeyboardInterrupt, match="keeps 3 finished folds and the training of seed 0 up to step 10"):
        run("classification", encoder, tmp_path / "parts", **options, resume=True)
    run("classification", encoder, tmp_path / "parts", **options, resume=True)
    assert steps["steps"] == 3 * 9 + 1 + 12
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert report_of(whole)["metrics"] == report_of(parts)["metrics"]
    expected, found = (load_file(folder / "model.safetensors") for folder in (whole, parts))
    torch.testing.assert_close(found, expected)
    assert not list(tmp_path.glob(".*-adaptation"))


def test_a_diverged_fold_leaves_no_folds_behind(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, steps = Trainer.training_step, Counter[str]()

    def diverges(self: Any, *given: Any, **others: Any) -> Any:
        steps["steps"] += 1
        return step(self, *given, **others) * (1 if steps["steps"] < 5 else torch.nan)

    monkeypatch.setattr(Trainer, "training_step", diverges)
    file = write(tmp_path / "train.jsonl", examples_of("classification", 60, 0))
    with pytest.raises(UsageError, match="has diverged"):
        run("classification", encoder, tmp_path / "out", train_file=file, num_train_epochs=1)
    assert not list(tmp_path.glob(".*-adaptation"))


@pytest.mark.parametrize("classes", [2, 3])
def test_a_linear_fit_predicts_as_scikit_learn_on_unscaled_vectors(classes: int) -> None:
    generator = np.random.default_rng(0)
    vectors = (3 + 5 * generator.normal(size=(90, 7))).astype(np.float32)
    labels = (vectors[:, :classes] + generator.normal(size=(90, classes))).argmax(1)
    fit = LinearFit("single_label_classification", vectors, labels, classes)
    centred = vectors - vectors.mean(0)
    scale = np.sqrt((centred**2).sum(1).mean())
    expected = LogisticRegression(C=fit.strength, max_iter=1000).fit(centred / scale, labels)
    logits = fit.head()(vectors)
    found = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(found, expected.predict_proba(centred / scale), atol=1e-4)


def test_noise_gets_a_strong_penalty_and_a_clear_pattern_a_weak_one() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(200, 8)).astype(np.float32)
    kind = "single_label_classification"
    assert LinearFit(kind, vectors, generator.integers(0, 2, 200), 2).strength <= 0.1
    assert LinearFit(kind, vectors, (vectors[:, 0] > 0).astype(int), 2).strength >= 10


def test_a_linear_fit_takes_labels_that_no_example_has() -> None:
    vectors = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    two = LinearFit("single_label_classification", vectors, (vectors[:, 0] > 0).astype(int), 3).head()
    assert set(two(vectors).argmax(1)) == {0, 1}
    several = np.stack([np.zeros(20), vectors[:, 0] > 0, np.ones(20)], 1)
    found = LinearFit("multi_label_classification", vectors, several, 3).head()(vectors) > 0
    assert (found[:, 1] == several[:, 1]).mean() > 0.9
    assert not found[:, 0].any()
    assert found[:, 2].all()
    one = LinearFit("single_label_classification", vectors, np.full(20, 1), 3).head()
    assert set(one(vectors).argmax(1)) == {1}


def test_fine_tuning_is_dropped_only_if_it_is_clearly_worse() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(300) % 2
    good = 2.0 * np.eye(2)[labels] + generator.normal(size=(300, 2))
    noise = generator.normal(size=(300, 2))
    kind = "single_label_classification"
    assert prefers_linear(kind, OutOfFold(noise, good), labels)[0]
    assert not prefers_linear(kind, OutOfFold(good, noise), labels)[0]
    # The confidence of the same answers does not matter.
    assert not prefers_linear(kind, OutOfFold(9 * good, good), labels)[0]


@pytest.mark.parametrize(("count", "folds"), [(16, 4), (60, 3), (1500, 1)])
def test_folds_have_the_classes_in_equal_shares(count: int, folds: int) -> None:
    strata = ["a"] * (count // 4) + ["b"] * (count - count // 4)
    found = folds_of(strata, np.arange(count), 0)
    assert len(found) == folds
    assert folds == 1 or sorted(np.concatenate(found)) == list(range(count))
    assert folds > 1 or len(found[0]) >= 200
    for fold in found:
        assert abs(Counter(strata[row] for row in fold)["a"] / len(fold) - 0.25) < 0.1


def test_few_examples_are_repeated_and_options_that_are_set_stay(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few, many = plan_for(16), plan_for(20_000)
    assert few["num_train_epochs"] > 3 * many["num_train_epochs"]
    assert few["learning_rate"] > many["learning_rate"]
    assert few["warmup_steps"] == 0
    random_head = plan_for(16, starts_linear=False)
    assert random_head["num_train_epochs"] > few["num_train_epochs"]
    assert random_head["learning_rate"] == many["learning_rate"]
    file = write(tmp_path / "train.jsonl", examples_of("classification", 12, 0))
    run("classification", encoder, tmp_path / "out", train_file=file, num_train_epochs=1, learning_rate=1e-3)
    output = capsys.readouterr().out
    assert "Plan for 12 examples: batches of 16.\n" in output
    assert "12 examples are too few for a comparison" in output
    report = report_of(tmp_path / "out")
    assert report["metrics"]["validation"]["loss"]["mean"] == report["baselines"]["linear_head"]["validation"]["loss"]


def test_equal_texts_are_in_the_same_fold() -> None:
    texts = np.arange(60) % 20
    for count in (None, 5):
        folds = folds_of(["a", "b"] * 30, texts, 0, count)
        assert sorted(np.concatenate(folds)) == list(range(60))
        assert sum(len(set(texts[fold])) for fold in folds) == 20
    many = folds_of(None, np.arange(1500) // 2, 0)[0]
    assert len(set(many // 2)) == len(many) / 2 == 200
    # Nothing else can be done if all texts are equal.
    assert len(folds_of(None, np.zeros(8, int), 0)) == 4
