"""`sequence-encoder adapt` on every task, from a file of examples to a working model."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset
from safetensors.torch import load_file
from transformers import pipeline

from sequence_encoder import SequenceEncoderForSequenceClassification
from sequence_encoder.command_line import UsageError
from sequence_encoder.tests.fixtures.adaptation_runs import (
    COUNTS,
    FAST,
    arguments,
    examples_of,
    run,
    save_encoder,
    write_examples,
)
from sequence_encoder.tests.fixtures.forked_python import forked_python
from sequence_encoder.training.adaptation.arguments import TaskDataArguments
from sequence_encoder.training.adaptation.runs.training import load_average
from sequence_encoder.training.adaptation.tasks import HEAD_TASKS

Build = Callable[..., Any]

# Per task: the metric, the score to reach, and the class of the saved model.
GOALS: dict[str, tuple[str, float, str]] = {
    "classification": ("accuracy", 0.9, "SequenceEncoderForSequenceClassification"),
    "multi-label": ("f1", 0.9, "SequenceEncoderForSequenceClassification"),
    "regression": ("spearman", 0.8, "SequenceEncoderForSequenceClassification"),
    "ner": ("f1", 0.95, "SequenceEncoderForTokenClassification"),
    "qa": ("f1", 90.0, "SequenceEncoderForQuestionAnswering"),
    "multiple-choice": ("accuracy", 0.8, "SequenceEncoderForMultipleChoice"),
    "embedding": ("cosine_ndcg@10", 0.9, "SequenceEncoderModel"),
    "ranking": ("average_precision", 0.8, "SequenceEncoderForSequenceClassification"),
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def adapted(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Any]]:
    """Return `adapted(task)`, which trains a model for a task once and returns its folder and its results."""
    folder, done = tmp_path_factory.mktemp("adapted"), {}

    def train(task: str) -> tuple[Path, Any]:
        if task not in done:
            files = write_examples(folder, task, COUNTS)
            done[task] = (folder / task, run(task, encoder, folder / task, **files, **FAST))
        return done[task]

    return train


@pytest.mark.parametrize("task", GOALS)
def test_every_task_trains_reports_and_saves_a_model(adapted: Build, task: str) -> None:
    folder, results = adapted(task)
    metric, goal, architecture = GOALS[task]
    assert results.best.metrics["test"][metric] >= goal
    report = json.loads((folder / "results.json").read_text())
    assert report["metrics"]["test"][metric]["mean"] == results.best.metrics["test"][metric]
    assert report["parameters"] == report["trained_parameters"]
    config = transformers.AutoConfig.from_pretrained(folder)
    assert config.architectures == [architecture]
    assert not list(folder.parent.glob(f".{folder.name}*"))
    assert "auto_map" in json.loads((folder / "config.json").read_text())
    rows = examples_of(task, COUNTS["test"], 2)
    predicted = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert [
        {**row, "prediction": answer["prediction"]} for row, answer in zip(rows, predicted, strict=True)
    ] == predicted
    # The baselines have the same splits, and are worse.
    for name, scores_of_baseline in report["baselines"].items():
        assert scores_of_baseline.keys() == report["metrics"].keys()
        # An encoder with random weights already matches texts of the same words, and a word gives the label away.
        best, equal = results.best.metrics["test"][metric], 1e-6 * name.startswith("linear")
        if task == "regression":
            equal *= 100  # Rank correlations of numbers that occur often depend on how a processor rounds.
        assert task == "embedding" or scores_of_baseline["test"][metric] < best + equal, name
    assert ("linear_tfidf" in report["baselines"]) == (task in ("classification", "multi-label", "regression"))
    assert ("constant_answer" in report["baselines"]) == (task not in ("qa", "embedding", "ranking"))
    assert task == "embedding" or report["warnings"] == []
    card = (folder / "README.md").read_text()
    assert f"{results.best.metrics['test'][metric]:.4f}".rstrip("0") in card or task in ("embedding", "ranking")


RIGHT: dict[str, Callable[[dict[str, Any]], bool]] = {
    "classification": lambda row: row["prediction"] == row["label"],
    "multi-label": lambda row: sorted(row["prediction"]) == sorted(row["labels"]),
    "regression": lambda row: abs(row["prediction"] - row["label"]) < 0.5,
    "ner": lambda row: row["prediction"] == row["ner_tags"],
    "qa": lambda row: row["prediction"] == row["answers"]["text"][0],
    "multiple-choice": lambda row: row["prediction"] == row["label"],
    "embedding": lambda row: row["prediction"] > 0.5,
    "ranking": lambda row: (row["prediction"] > 0.5) == row["label"],
}


@pytest.mark.parametrize("task", RIGHT)
def test_most_saved_predictions_are_correct(adapted: Build, task: str) -> None:
    lines = (adapted(task)[0] / "predictions.jsonl").read_text().splitlines()
    assert sum(map(RIGHT[task], map(json.loads, lines))) > 0.75 * len(lines)


def test_a_confusion_matrix_counts_the_predictions(adapted: Build) -> None:
    folder, results = adapted("classification")
    report = json.loads((folder / "results.json").read_text())["confusion_matrix"]
    assert (report["split"], report["labels"]) == ("test", ["blue", "green", "red"])
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert report["counts"] == [
        [sum((row["label"], row["prediction"]) == (known, found) for row in rows) for found in report["labels"]]
        for known in report["labels"]
    ]
    right = sum(report["counts"][index][index] for index in range(3)) / len(rows)
    assert right == results.best.metrics["test"]["accuracy"]
    assert (folder / "confusion_matrix.png").read_bytes().startswith(b"\x89PNG")


def test_a_model_no_better_than_its_baselines_is_saved_with_warnings(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {}
    for split, count in {"train": 60, "validation": 40}.items():
        # Only the second text says what the label is.
        rows = [{**row, "text": "we", "more": row["text"]} for row in examples_of("classification", count, count)]
        files[f"{split}_file"] = str(tmp_path / f"{split}.jsonl")
        Path(files[f"{split}_file"]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"text_pair_column": "more", "learning_rate": 50, "warmup_steps": 0, "num_train_epochs": 2}
    options["keep_best"] = False  # the weights before training
    run("classification", encoder, tmp_path / "out", **files, **options)
    report = json.loads((tmp_path / "out" / "results.json").read_text())
    warnings, baselines = report["warnings"], report["baselines"]
    assert baselines["linear_tfidf"]["validation"]["accuracy"] == 1
    assert any("the loss on the validation examples is" in warning for warning in warnings)
    assert any("compared with 1 for a linear model of TF-IDF" in warning for warning in warnings)
    output, card = capsys.readouterr().out, (tmp_path / "out" / "README.md").read_text()
    for warning in warnings:
        assert f"Warning: {warning}" in output
        assert warning[1:] in card
    assert "Baselines, by accuracy on the validation examples:" in card
    assert "TF-IDF, linear 1." in card


def test_a_nan_loss_stops_the_run_and_saves_nothing(encoder: Path, tmp_path: Path) -> None:
    options = {"learning_rate": 1e30, "warmup_steps": 0, "save_strategy": "steps", "logging_strategy": "steps"}
    for task in ("classification", "embedding"):
        files = write_examples(tmp_path, task, {"train": 64, "validation": 8})
        with pytest.raises(UsageError, match=r"diverged: at step .* the loss is nan.*--learning_rate than 1e\+30"):
            run(task, encoder, tmp_path / task, **files, **options)
        assert not list(tmp_path.glob(f"{task}")) + list(tmp_path.glob(f".{task}*"))


@pytest.mark.since("torch", "2.8", "has the fused AdamW that is the default; others reject such steps themselves")
def test_nan_weights_stop_the_run_and_replace_no_model(encoder: Path, tmp_path: Path) -> None:
    """The last step breaks the weights, and no later loss shows it."""
    files = write_examples(tmp_path, "classification", {"train": 64, "validation": 8})
    run("classification", encoder, tmp_path / "out", **files, max_steps=1)
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    spoiled = {"max_steps": 1, "learning_rate": 1e39, "warmup_steps": 0, "keep_best": False, "eval_strategy": "no"}
    with pytest.raises(
        UsageError, match=r"diverged: after step 1 the weights are NaN or infinite in .*Nothing is saved"
    ):
        run("classification", encoder, tmp_path / "out", **files, **spoiled, overwrite=True)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
    assert not list(tmp_path.glob(".out*"))


def test_a_failing_plot_does_not_lose_the_model(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from matplotlib.figure import Figure

    def fail(*args: Any, **options: Any) -> None:
        raise RuntimeError("no fonts")

    monkeypatch.setattr(Figure, "savefig", fail)
    files = write_examples(tmp_path, "classification", {"train": 30, "validation": 20})
    run("classification", encoder, tmp_path / "out", **files, num_train_epochs=1)
    assert (
        "the confusion matrix could not be written (RuntimeError('no fonts')); the model is" in capsys.readouterr().err
    )
    transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert (tmp_path / "out" / "README.md").exists()


def test_embedding_and_ranking_models_load_in_sentence_transformers(adapted: Build) -> None:
    from sentence_transformers import CrossEncoder, SentenceTransformer

    model = SentenceTransformer(str(adapted("embedding")[0]))
    near, far = model.similarity(model.encode(["we saw red here cat"]), model.encode(["a red by", "a blue by"]))[0]
    assert near > far
    ranker = CrossEncoder(str(adapted("ranking")[0]))
    right, wrong = ranker.predict([("we saw red here cat", "by cat"), ("we saw red here cat", "by red")])
    assert right > wrong


def test_several_seeds_are_reported_and_the_best_is_kept(encoder: Path, tmp_path: Path) -> None:
    files = write_examples(tmp_path, "classification", {"train": 60, "validation": 30, "test": 30})
    run("classification", encoder, tmp_path / "out", seeds=3, **files, **{**FAST, "num_train_epochs": 2})
    report = json.loads((tmp_path / "out" / "results.json").read_text())
    assert report["seeds"] == [0, 1, 2]
    values = report["metrics"]["validation"]["accuracy"]["values"]
    assert report["kept_seed"] == values.index(max(values))
    assert report["metrics"]["validation"]["accuracy"]["mean"] == pytest.approx(sum(values) / 3)
    assert "±" in (tmp_path / "out" / "README.md").read_text()


def test_the_weights_of_all_seeds_can_be_averaged(encoder: Path, tmp_path: Path) -> None:
    files = write_examples(tmp_path, "classification", {"train": 32, "validation": 12, "test": 12})
    # With this learning rate, runs end where they start: all that are averaged start from the head of the first seed.
    options = {**FAST, "num_train_epochs": 1, "tuning": "head", "learning_rate": 1e-9}
    run("classification", encoder, tmp_path / "out", seeds=2, average_seeds=True, **files, **options)
    run("classification", encoder, tmp_path / "one", **files, **options)
    average, one = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "one"))
    assert all(torch.allclose(average[name], one[name], atol=1e-6) for name in one)
    report = json.loads((tmp_path / "out" / "results.json").read_text())
    assert report["kept_seed"] is None
    assert report["average"]["test"].keys() >= {"accuracy", "loss"}
    assert len((tmp_path / "out" / "predictions.jsonl").read_text().splitlines()) == 12
    assert "the average of the weights of 2 training runs" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("task", ["embedding", "ranking"])
def test_the_weights_of_sentence_transformers_can_be_averaged(task: str, encoder: Path, tmp_path: Path) -> None:
    files = write_examples(tmp_path, task, {"train": 32, "validation": 12})
    options = {**FAST, "num_train_epochs": 1, "learning_rate": 1e-3, "keep_best": False}
    run(task, encoder, tmp_path / "out", seeds=2, average_seeds=True, **files, **options)
    run(task, encoder, tmp_path / "first", **files, **options)
    average, first = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "first"))
    assert any(not torch.equal(average[name], first[name]) for name in first)
    assert json.loads((tmp_path / "out" / "results.json").read_text())["kept_seed"] is None
    assert "averages of those of 2 training runs" in (tmp_path / "out" / "README.md").read_text()
    # With this learning rate, runs end where they start, so all have started from the same weights, of a new head, too.
    run(task, encoder, tmp_path / "still", seeds=2, average_seeds=True, **files, **{**options, "learning_rate": 1e-9})
    run(task, encoder, tmp_path / "start", **files, **{**options, "learning_rate": 1e-9})
    still, start = (load_file(tmp_path / name / "model.safetensors") for name in ("still", "start"))
    assert all(torch.allclose(still[name], start[name], atol=1e-6) for name in start)


def test_a_sentence_encoder_is_always_evaluated_in_the_dtype_of_its_training(encoder: Path, tmp_path: Path) -> None:
    in_bfloat16: list[bool] = []

    def record(module: torch.nn.Module, inputs: Any) -> None:
        if isinstance(module, torch.nn.LayerNorm):
            in_bfloat16.append(torch.is_autocast_enabled("cpu"))

    files = write_examples(tmp_path, "embedding", {"train": 16, "validation": 12})
    with torch.nn.modules.module.register_module_forward_pre_hook(record):
        run("embedding", encoder, tmp_path / "out", **files, **{**FAST, "num_train_epochs": 1, "bf16": True})
    assert in_bfloat16
    assert all(in_bfloat16)


def test_averaged_weights_are_the_means(tmp_path: Path, tiny_config: Any) -> None:
    models = [SequenceEncoderForSequenceClassification(tiny_config(num_labels=2)) for _ in range(3)]
    for place, model in enumerate(models):
        torch.nn.init.constant_(model.classifier.weight, float(place))
        model.save_pretrained(tmp_path / str(place))
    load_average(models[0], [tmp_path / "1", tmp_path / "2"])
    assert models[0].classifier.weight.unique().tolist() == [1.5]


def test_a_trained_head_keeps_its_label_order(
    encoder: Path, adapted: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = adapted("classification")[0]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    # The same model with its labels in another order.
    order = [2, 0, 1]
    names = [model.config.id2label[index] for index in order]
    with torch.no_grad():
        model.classifier.weight.copy_(model.classifier.weight[order])
        model.classifier.bias.copy_(model.classifier.bias[order])
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: index for index, name in enumerate(names)}
    model.save_pretrained(tmp_path / "trained")
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "trained")
    files = write_examples(tmp_path, "classification", {"train": 20, "validation": 40})
    options = {"num_train_epochs": 1, "learning_rate": 1e-9}
    same = run("classification", tmp_path / "trained", tmp_path / "same", **files, **options)
    assert same.best.metrics["validation"]["accuracy"] > 0.9
    assert list(transformers.AutoConfig.from_pretrained(tmp_path / "same").id2label.values()) == names
    assert "is replaced by a new one" not in capsys.readouterr().out
    # Other labels need a new head.
    files = write_examples(tmp_path, "multiple-choice", {"train": 20, "validation": 40})
    run("multiple-choice", tmp_path / "trained", tmp_path / "other", **files, **options)
    said = f"The head of {tmp_path / 'trained'} for 3 labels is replaced by a new one"
    assert capsys.readouterr().out.count(said) == 1
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("trained", "other"))
    assert after["classifier.weight"].shape == (1, 32)
    torch.testing.assert_close(after["model.embed_tokens.weight"], before["model.embed_tokens.weight"])


def test_only_the_first_token_of_each_word_is_labelled(encoder: Path, tmp_path: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
    rows, file = [{"tokens": ["we", "redcatdog", "saw"], "ner_tags": ["O", "B-x", "I-x"]}] * 2, tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = HEAD_TASKS["ner"](TaskDataArguments(train_file=str(file)), 64)
    inputs = task.encode(task.read({"train": Dataset.from_list(rows)})["train"], tokenizer)[0]
    words = tokenizer([["we", "redcatdog", "saw"]], is_split_into_words=True).word_ids(0)
    assert words.count(1) > 1
    firsts = [words.index(word) for word in (0, 1, 2)]
    assert [task.labels[inputs["labels"][place]] for place in firsts] == ["O", "B-x", "I-x"]
    assert {label for place, label in enumerate(inputs["labels"]) if place not in firsts} == {-100}


def test_numeric_tags_are_scored_word_by_word(encoder: Path, tmp_path: Path) -> None:
    numbers = {"O": 0, "B-colour": 1, "B-animal": 2}
    rows = [{**row, "ner_tags": [numbers[tag] for tag in row["ner_tags"]]} for row in examples_of("ner", 240, 0)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    results = run("ner", encoder, tmp_path / "out", train_file=tmp_path / "train.jsonl", **FAST)
    assert results.best.metrics["validation"]["f1"] > 0.95


def test_balanced_class_weights_raise_rare_classes(encoder: Path, tmp_path: Path) -> None:
    rows = [{"text": "we saw it", "label": "common"}] * 38 + [{"text": "we saw it", "label": "rare"}] * 2
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scores = {}
    for weights in ("none", "balanced"):
        options = {
            "class_weights": weights,
            "validation_file": tmp_path / "train.jsonl",
            **FAST,
            "num_train_epochs": 12,
        }
        # The initial weights already have the best accuracy.
        options["keep_best"] = False
        run("classification", encoder, tmp_path / weights, train_file=tmp_path / "train.jsonl", **options)
        pipe = pipeline("text-classification", model=str(tmp_path / weights), top_k=None)
        scores[weights] = {each["label"]: each["score"] for each in pipe("we saw it")[0]}["rare"]
    assert scores["none"] < 0.2
    assert scores["balanced"] == pytest.approx(0.5, abs=0.15)


def test_a_search_reports_the_hyperparameters_it_chose(encoder: Path, tmp_path: Path) -> None:
    files = write_examples(tmp_path, "classification", {"train": 40, "validation": 20})
    run("classification", encoder, tmp_path / "out", search_trials=2, **files, num_train_epochs=1)
    report = json.loads((tmp_path / "out" / "results.json").read_text())["hyperparameters_found"]
    assert set(report) == {"learning_rate", "num_train_epochs", "per_device_train_batch_size"}
    assert f"{report['learning_rate']:g}"[:5] in (tmp_path / "out" / "README.md").read_text()


def test_embeddings_can_be_truncated_to_a_trained_size(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sentence_transformers import SentenceTransformer

    files = write_examples(tmp_path, "embedding", COUNTS)
    run("embedding", encoder, tmp_path / "out", matryoshka_dims=[32, 4], **files, **FAST)
    # sentence-transformers chooses examples for the card, with a bar that has no setting.
    assert "widget" not in capsys.readouterr().err
    assert "widget:" in (tmp_path / "out" / "README.md").read_text()
    model = SentenceTransformer(str(tmp_path / "out"), truncate_dim=4)
    near, far = model.similarity(model.encode(["we saw red here cat"]), model.encode(["a red by", "a blue by"]))[0]
    assert near > far


_WORDS = ["red", "green", "blue", "cat", "dog"]


def test_embeddings_learn_from_similarity_scores(encoder: Path, tmp_path: Path, refused_hosts: list[Any]) -> None:
    pairs = [{"text": f"the {a}", "text_pair": f"a {b}", "score": float(a == b)} for a in _WORDS for b in _WORDS] * 6
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    results = run("embedding", encoder, tmp_path / "out", train_file=tmp_path / "train.jsonl", **FAST)
    assert results.best.metrics["validation"]["spearman_cosine"] > 0.5
    # By default, sentence-transformers looks up the names of local folders on the Hub.
    assert not refused_hosts


def free_port() -> int:
    """Return a free port for the launcher, since older releases of Accelerate do not choose one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_two_processes_train_the_same_model_as_one(tmp_path: Path) -> None:
    """The one is this process, which iterates over sets in another order than the two, which are forks of another.

    The gradients of the large table of token vectors are sparse in the one, and dense in the two.
    """
    encoder = save_encoder(tmp_path / "encoder", vocab_size=9000)
    files = write_examples(tmp_path, "classification", {"train": 64, "validation": 32})
    options = {**files, "learning_rate": 3e-3, "num_train_epochs": 2, "use_cpu": True}
    run("classification", encoder, tmp_path / "one", **options, per_device_train_batch_size=16)
    command = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(free_port())]
    command += ["-m", "sequence_encoder", "adapt"]
    command += arguments("classification", encoder, tmp_path / "two", **options, per_device_train_batch_size=8)
    environment = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHON_EXEC": forked_python()}
    finished = subprocess.run(
        [forked_python(), *command], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)
    scores = [json.loads((tmp_path / name / "results.json").read_text())["metrics"] for name in ("one", "two")]
    assert scores[0]["validation"].keys() == scores[1]["validation"].keys()
    for name, score in scores[0]["validation"].items():
        assert scores[1]["validation"][name]["mean"] == pytest.approx(score["mean"], abs=1e-4), name
