"""Examples and arguments that `sequence-encoder adapt` rejects before it computes anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sequence_encoder.__main__ import main
from sequence_encoder.command_line import UsageError
from sequence_encoder.tests.fixtures.adaptation_runs import examples_of, run
from sequence_encoder.training.adaptation.run import parse

Rows = list[dict[str, Any]]


@pytest.fixture
def error_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return `error_of(task, train, **options)`, which returns the error of a run and checks that it wrote nothing."""

    def give(task: str, train: Rows, validation: Rows | None = None, **options: Any) -> str:
        for split, rows in (("train", train), ("validation", validation)):
            if rows is not None:
                file = tmp_path / f"{split}.jsonl"
                file.write_text("".join(json.dumps(row) + "\n" for row in rows))
                options.setdefault(f"{split}_file", file)
        # The encoder does not exist, so that reading it would raise another error.
        with pytest.raises(UsageError) as caught:
            run(task, tmp_path / "no-encoder", tmp_path / "out", **options)
        assert "no-encoder" not in str(caught.value)
        assert not (tmp_path / "out").exists()
        assert not list(tmp_path.glob(".out*"))
        return str(caught.value)

    return give


def changed(task: str, row: int, **values: Any) -> Rows:
    """Return examples of a task, one of which has other values."""
    rows = examples_of(task, 12, 0)
    rows[row] = {**rows[row], **values}
    return rows


def without(task: str, column: str) -> Rows:
    return [{name: value for name, value in row.items() if name != column} for row in examples_of(task, 12, 0)]


COLUMNS = [
    ("classification", "text", "text_column"),
    ("classification", "label", "label_column"),
    ("multi-label", "labels", "label_column"),
    ("regression", "label", "label_column"),
    ("ner", "ner_tags", "label_column"),
    ("qa", "context", "text_pair_column"),
    ("qa", "answers", "label_column"),
    ("multiple-choice", "choices", "choice_columns"),
    ("ranking", "text_pair", "text_pair_column"),
    ("ranking", "label", "label_column"),
]


@pytest.mark.parametrize(("task", "column", "argument"), COLUMNS)
def test_a_missing_column_is_named_with_the_existing_ones(
    error_of: Callable[..., str], task: str, column: str, argument: str
) -> None:
    message = error_of(task, without(task, column))
    assert f"--{argument} {column} is not in the train examples; choose one of " in message
    assert all(name in message for name in without(task, column)[0])


@pytest.mark.parametrize(
    ("task", "column"),
    [
        ("classification", "text"),
        ("qa", "question"),
        ("embedding", "text_pair"),
        ("ranking", "text"),
        ("ner", "tokens"),
    ],
)
def test_a_missing_text_is_reported_with_its_line(
    error_of: Callable[..., str], tmp_path: Path, task: str, column: str
) -> None:
    message = error_of(task, changed(task, 7, **{column: None}))
    assert f" {column} must contain a " in message
    assert f"line 8 of {tmp_path / 'train.jsonl'} has None" in message


@pytest.mark.parametrize("task", ["ranking", "multiple-choice"])
def test_a_missing_label_is_reported_with_its_line(error_of: Callable[..., str], tmp_path: Path, task: str) -> None:
    message = error_of(task, changed(task, 3, label=None))
    assert "--label_column label must contain" in message
    assert f"line 4 of {tmp_path / 'train.jsonl'} has None" in message


def test_many_wrong_rows_are_counted(error_of: Callable[..., str]) -> None:
    rows = [{"text": None, "label": "a"} for _ in range(9)] + examples_of("classification", 9, 0)
    assert "and 6 more rows are wrong" in error_of("classification", rows)
    assert "and 1 more row is wrong" in error_of("classification", rows[5:])


@pytest.mark.parametrize("task", ["classification", "regression", "ranking", "multiple-choice"])
def test_a_single_label_is_rejected(error_of: Callable[..., str], task: str) -> None:
    label: Any = {"classification": "red", "regression": 1.0}.get(task, 1)
    message = error_of(task, [{**row, "label": label} for row in examples_of(task, 12, 0)])
    assert "at least two different labels" in message or "has the same value in all training examples" in message


@pytest.mark.parametrize(
    ("task", "values"),
    [("classification", {"label": "pink"}), ("multi-label", {"labels": ["red", "pink"]}), ("ner", {"ner_tags": None})],
)
def test_validation_labels_that_are_not_trained_on_are_named(
    error_of: Callable[..., str], task: str, values: dict[str, Any]
) -> None:
    if task == "ner":
        tags = examples_of("ner", 12, 1)[2]["ner_tags"]
        values = {"ner_tags": ["B-pink", *tags[1:]]}
    validation = examples_of(task, 12, 1)
    validation[2] = {**validation[2], **values}
    message = error_of(task, examples_of(task, 12, 0), validation)
    assert "the validation examples have the labels" in message
    assert "pink" in message


@pytest.mark.parametrize(("start", "end"), [(-1, 3), (5, 5), (0, 12), (30, 40)])
def test_spans_outside_their_text_are_rejected(error_of: Callable[..., str], start: int, end: int) -> None:
    rows = [{"text": "we saw it", "entities": [{"start": 0, "end": 2, "label": "who"}]} for _ in range(5)]
    rows[3] = {"text": "we saw it", "entities": [{"start": start, "end": end, "label": "who"}]}
    message = error_of("ner", rows, label_column="entities")
    assert message.startswith("--label_column entities: line 4 of ")
    assert f"train.jsonl has a span from {start} to {end}" in message


@pytest.mark.parametrize("start", [-1, 2, 900])
def test_misplaced_answers_are_rejected(error_of: Callable[..., str], start: int) -> None:
    message = error_of(
        "qa", changed("qa", 4, context="it is an owl", answers={"text": ["owl"], "answer_start": [start]})
    )
    assert message.startswith("--label_column answers: line 5 of ")
    assert f"train.jsonl has the answer 'owl' at {start}" in message


def test_words_and_tags_must_have_the_same_length(error_of: Callable[..., str]) -> None:
    message = error_of("ner", changed("ner", 2, tokens=["we", "saw"]))
    assert "must contain one tag per word; line 3 of " in message
    assert "train.jsonl has 2 words and 6 tags" in message


@pytest.mark.parametrize("label", [2, -1])
def test_a_label_without_a_choice_is_rejected(error_of: Callable[..., str], label: int) -> None:
    assert f"train.jsonl has {label}." in error_of("multiple-choice", changed("multiple-choice", 5, label=label))


def test_every_row_must_have_the_same_number_of_choices(error_of: Callable[..., str]) -> None:
    message = error_of("multiple-choice", changed("multiple-choice", 5, choices=["a", "b", "c"]))
    assert "must contain the same number of texts in every row, got [2, 3]" in message


def test_ranking_labels_must_be_between_0_and_1(error_of: Callable[..., str]) -> None:
    assert "numbers from 0 to 1" in error_of("ranking", changed("ranking", 5, label=3))


@pytest.mark.parametrize(
    "variables", [{"ACCELERATE_USE_FSDP": "true"}, {"PARALLELISM_CONFIG_TP_SIZE": "2", "WORLD_SIZE": "2"}]
)
def test_a_launcher_that_shards_models_is_refused(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="adapt cannot train sharded models"):
        parse(["--task", "ner", "--model", "somewhere", "--output_dir", str(tmp_path / "out"), "--train_file", "a.csv"])


@pytest.mark.parametrize("name", ["rows.csv", "rows.txt", "no-such-folder/rows.csv"])
def test_files_that_cannot_be_read_are_named(error_of: Callable[..., str], tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    if file.parent.exists():
        file.write_bytes(b"" if name.endswith(".csv") else b"a text")
    assert str(file) in error_of("classification", [], train_file=file)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (["['red', 'cat']"] * 12, "must contain labels: lists of names, or names separated by ','"),
        ([["red", None]] * 12, "must contain labels"),
        ([[1, 0, 0], [0, 1, 1]] * 6, "must contain the names of a text's labels, got a 0 or 1"),
    ],
)
def test_ambiguous_labels_are_rejected(error_of: Callable[..., str], cell: list[Any], message: str) -> None:
    rows = [{"text": "it is red", "labels": value} for value in cell]
    assert message in error_of("multi-label", rows)


def test_an_unknown_metric_is_rejected(error_of: Callable[..., str]) -> None:
    rows = examples_of("classification", 12, 0)
    message = error_of("classification", rows, metric_for_best_model="acuracy")
    assert "must be one of accuracy, f1, matthews_correlation, loss, got acuracy" in message
    assert "--metric_for_best_model does not support" in error_of(
        "embedding", examples_of("embedding", 12, 0), metric_for_best_model="loss"
    )


@pytest.mark.parametrize(
    ("labels", "remedy"),
    [
        ([index / 7 for index in range(60)], "predict numbers with --task regression"),
        # Scores of STS-B, which several texts share.
        ([index % 26 / 5 for index in range(600)], "predict numbers with --task regression"),
        ([index / 7 for index in range(8)], "predict numbers with --task regression"),
        (list(range(60)), "predict numbers with --task regression"),
        ([f"title {index}" for index in range(60)], "choose another --label_column"),
    ],
)
def test_labels_that_are_not_classes_are_rejected(error_of: Callable[..., str], labels: list[Any], remedy: str) -> None:
    message = error_of("classification", [{"text": "a red cat", "label": label} for label in labels])
    assert f"--label_column label has {len(set(labels))} different labels in {len(labels)} training" in message
    assert remedy in message


def test_class_weights_need_classes(error_of: Callable[..., str]) -> None:
    message = error_of("regression", examples_of("regression", 12, 0), class_weights="balanced")
    assert "--class_weights only supports classification and ner, got --task regression" in message


def test_an_output_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="does not contain a saved model"):
        run("classification", tmp_path / "no-encoder", tmp_path / "out", train_file="a.csv", overwrite=True)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


def test_settings_are_read_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text("task: ner\nmodel: somewhere\ntrain_file: a.jsonl\nlearning_rate: 0.5\n")
    found = parse([str(settings), "--num_train_epochs", "7", "--metric_for_best_model", "f1"])
    assert (found.model.task, found.args.learning_rate, found.args.num_train_epochs) == ("ner", 0.5, 7.0)
    assert (found.args.metric_for_best_model, found.args.greater_is_better) == ("f1", True)
    settings.write_text("task: embedding\nmodel: somewhere\ntrain_file: a.jsonl\nmatryoshka_dims: 8\n")
    assert parse([str(settings)]).model.matryoshka_dims == [8]
    settings.write_text("task: ner\nmodel: somewhere\ntrain_file: a.jsonl\nseeds: 2.7\n")
    with pytest.raises(UsageError, match=r"--seeds must be an integer, got '2\.7'"):
        parse([str(settings)])
    settings.write_text("task: ner\nmodel: somewhere\ntrain_file: a.jsonl\n")
    with pytest.raises(SystemExit, match=r"sequence-encoder adapt: .*there is no such file"):
        main(["adapt", str(settings), "--train_file", str(tmp_path / "none.jsonl")])


def test_an_output_folder_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    """Nobody can create folders in /proc, not even root."""
    with pytest.raises(PermissionError) as caught:
        run("classification", tmp_path / "no-encoder", Path("/proc/nope"), train_file="a.csv")
    assert "/proc/nope cannot be written" in str(caught.value)
    assert "adaptation" not in str(caught.value)
