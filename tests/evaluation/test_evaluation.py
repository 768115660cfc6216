"""`evaluate` measures models of every task on several files, refuses bad input, and writes a report."""

from __future__ import annotations

import csv
import html
import json
import re
import resource
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, pipeline

from sequence_encoder import (
    QuestionAnsweringPipeline,
    SequenceEncoderForMaskedLM,
    SequenceEncoderForQuestionAnswering,
    SequenceEncoderForSequenceClassification,
    SequenceEncoderForTokenClassification,
    calibrate,
    evaluate,
)
from sequence_encoder.__main__ import main
from sequence_encoder.command_line import UsageError
from sequence_encoder.evaluation import charts
from sequence_encoder.tests.fixtures.adaptation_runs import ANIMALS, COLOURS, examples_of, save_encoder

LABELS = {"label", "labels", "ner_tags", "answers"}
HEADS: dict[str, tuple[Any, list[str], dict[str, Any]]] = {
    "classification": (SequenceEncoderForSequenceClassification, COLOURS, {}),
    "multi-label": (
        SequenceEncoderForSequenceClassification,
        [*COLOURS, *ANIMALS],
        {"problem_type": "multi_label_classification"},
    ),
    "ner": (SequenceEncoderForTokenClassification, ["O", "B-animal", "B-colour"], {}),
    "qa": (SequenceEncoderForQuestionAnswering, ["a", "b"], {}),
}
METRICS = {
    "classification": ("accuracy", "f1", "matthews_correlation"),
    "multi-label": ("f1", "f1_macro", "accuracy"),
    "ner": ("precision", "recall", "f1", "accuracy"),
    "qa": ("exact_match", "f1"),
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


def model_of(encoder: Path, task: str) -> Any:
    torch.manual_seed(0)
    head, labels, fields = HEADS[task]
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: place for place, name in enumerate(labels)}}
    return head.from_pretrained(encoder, **names, **fields)


def trained(encoder: Path, rows: list[dict[str, Any]], only_head: bool = False) -> tuple[Any, Any]:
    """Return a model that has learned the colours, and its tokenizer. If only its head has, it is more or less sure."""
    model, tokenizer = model_of(encoder, "classification"), AutoTokenizer.from_pretrained(encoder)
    inputs = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
    labels = torch.tensor([COLOURS.index(row["label"]) for row in rows])
    part, rate, steps = (model.classifier, 0.05, 100) if only_head else (model, 0.005, 25)
    optimizer = torch.optim.Adam(part.parameters(), lr=rate)
    for _ in range(steps):
        model(**inputs, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, tokenizer


def files_of(task: str) -> dict[str, list[dict[str, Any]]]:
    unlabelled = [{name: row[name] for name in row.keys() - LABELS} for row in examples_of(task, 12, 2)]
    return {"home": examples_of(task, 24, 0), "away": examples_of(task, 16, 1), "new": unlabelled}


@pytest.mark.parametrize("task", HEADS)
def test_every_task_is_evaluated(encoder: Path, task: str) -> None:
    model, tokenizer = model_of(encoder, task), AutoTokenizer.from_pretrained(encoder)
    found = evaluate(model, tokenizer, files_of(task), also=[(model, tokenizer)], bootstrap_samples=20)
    home, away, new = found.files
    names = (*METRICS[task], "expected_calibration_error", "brier_score")
    assert tuple(home.metrics) == tuple(away.metrics) == names
    assert all(each.low <= each.value <= each.high for each in home.metrics.values() if each.value > 0)
    assert home.estimate is None
    assert home.right is not None
    for file in (away, new):
        assert file.estimates["agreement"] == pytest.approx(home.right.value)
        assert file.estimate is not None
        assert file.input_shift is not None
    assert not new.labelled
    assert new.right is None
    assert not new.metrics
    assert (away.label_shift is not None) == (task == "classification")
    assert str(found).partition("\n\n")[0].count("\n") == 3
    assert evaluate(model, tokenizer, files_of(task), also=[(model, tokenizer)], bootstrap_samples=20) == found


@pytest.mark.parametrize("task", HEADS)
def test_a_calibrated_model_has_sets_and_unfamiliarity(encoder: Path, task: str) -> None:
    model, tokenizer = model_of(encoder, task), AutoTokenizer.from_pretrained(encoder)
    calibrate(model, tokenizer, examples_of(task, 60, 3))
    found = evaluate(model, tokenizer, files_of(task), bootstrap_samples=5)
    away, new = found["away"], found["new"]
    assert list(away.sets) == list(new.sets) == ["0.9", "0.8", "0.95"]
    assert 0 <= away.sets["0.8"]["coverage"] <= away.sets["0.95"]["coverage"] <= 1
    assert 0 < away.sets["0.8"]["size"] <= away.sets["0.95"]["size"]
    assert set(new.sets["0.9"]) == {"size"}
    assert away.unfamiliarity_auroc is not None
    if task not in SETS:
        return
    pairs = SETS[task](model, tokenizer, files_of(task)["away"])
    assert away.sets["0.8"]["size"] == pytest.approx(sum(len(answers) for answers, _ in pairs) / len(pairs))
    assert away.sets["0.8"]["coverage"] == pytest.approx(sum(true in answers for answers, true in pairs) / len(pairs))


def sets_of_entities(model: Any, tokenizer: Any, rows: list[dict[str, Any]]) -> list[tuple[list[str], str]]:
    """Return the sets that the pipeline gives entities, and their true kinds, or O. True entities have one word."""
    options = {"aggregation_strategy": "first", "coverage": 0.8}
    find = pipeline("token-classification", model=model, tokenizer=tokenizer, **options)
    pairs = []
    for row in rows:
        places, first = {}, 0
        for word, tag in zip(row["tokens"], row["ner_tags"], strict=True):
            places[first, first + len(word)] = tag.removeprefix("B-")
            first += len(word) + 1
        for entity in find(" ".join(row["tokens"])):
            pairs.append((entity["labels"], places.get((entity["start"], entity["end"]), "O")))
    return pairs


def sets_of_answers(model: Any, tokenizer: Any, rows: list[dict[str, Any]]) -> list[tuple[list[str], str]]:
    """Return the sets that the pipeline gives questions, and the true answers."""
    ask = QuestionAnsweringPipeline(model=model, tokenizer=tokenizer)
    return [
        (ask(question=row["question"], context=row["context"], coverage=0.8)["answers"], row["answers"]["text"][0])
        for row in rows
    ]


SETS = {"ner": sets_of_entities, "qa": sets_of_answers}


def test_the_command_writes_a_report_that_escapes_texts(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model_of(encoder, "classification").save_pretrained("model")
    AutoTokenizer.from_pretrained(encoder).save_pretrained("model")
    for name, rows in files_of("classification").items():
        rows = [{**row, "text": f"<script>alert(1)</script> {row['text']} {'x' * 600}"} for row in rows]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["evaluate", "model", "--test_file", "home=home.jsonl", "<i>=away.jsonl", "--test_file", "<b>=new.jsonl"]
    command += ["--bootstrap_samples", "5", "--output_dir", "report"]
    main(command)
    shown = capsys.readouterr().out
    assert re.search(r"^<i> +16 +0\.\d{3} \(0\.", shown, re.MULTILINE)
    found = json.loads(Path("report/evaluation.json").read_text())
    assert [file["name"] for file in found["files"]] == ["home", "<i>", "<b>"]
    page = Path("report/report.html").read_text()
    assert "<script" not in page
    assert "<bdi>&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "x" * 400 in page
    assert "x" * 500 not in page
    assert "<b></h2>" not in page
    assert "<i>" not in page
    assert "<u>" not in charts.bars(["<u>"], [charts.Series("<u>", "red", [0.5])])
    assert "http" not in page.replace("http-equiv", "")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(page) - 1, before[1]))
    try:
        with pytest.raises(SystemExit, match=r"The disk is full"):
            main([*command, "--output_dir", "full"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(Path("full").iterdir()) == []
    with pytest.raises(SystemExit, match=r"report has evaluation.json and report.html; .* --overwrite"):
        main(command)
    matched = [
        "--matched_dir",
        "matched",
        "--match",
        "<b>",
        "--label_shares",
        "red=0.5",
        "green=0.25",
        "blue=0.25",
    ]
    main([*command, "--overwrite", *matched])
    assert Path("report/report.html").read_text() == page
    classify = pipeline("text-classification", model="matched")
    labels = [classify(json.loads(line)["text"])[0]["label"] for line in Path("new.jsonl").read_text().splitlines()]
    assert labels.count("red") == pytest.approx(6, abs=2)
    more = ["--output_dir", "other", *matched[:1], "m", matched[2], "new"]
    with pytest.raises(SystemExit, match="--matched_dir needs --label_shares, because new has no labels"):
        main(["evaluate", "model", "--test_file", "new.jsonl", *more])
    with pytest.raises(SystemExit, match="--label_shares must have the labels red, green, blue, got red, green"):
        main([*command[:-1], "other", *matched[:1], "m", *matched[2:-1]])
    assert not Path("other").exists()


def test_a_larger_model_answers_what_the_model_is_not_sure_of(encoder: Path, tmp_path: Path) -> None:
    rows = examples_of("classification", 200, 0)
    small, tokenizer = trained(encoder, rows[:24], only_head=True)
    large, _ = trained(encoder, rows[:24])
    large.config._name_or_path = "large"
    files = {"home": rows, "away": examples_of("classification", 50, 1), "new": files_of("classification")["new"]}
    found = evaluate(small, tokenizer, files, then=(large, tokenizer), bootstrap_samples=5)
    home = found["home"].cascade
    assert home is not None
    assert home.chosen is not None
    assert home.small < home.chosen.accuracy
    assert home.chosen.accuracy >= home.large - 0.01
    # The threshold of home holds elsewhere too, and nothing is known without labels.
    assert found["away"].cascade.chosen.below == home.chosen.below
    assert found["new"].cascade is None
    assert (home.curve[0].passed_on, home.curve[0].accuracy) == (0.0, home.small)
    assert (home.curve[-1].passed_on, home.curve[-1].accuracy) == (1.0, home.large)
    assert f"--then large --then_below {home.chosen.below:.3f}" in str(found)
    found.save(tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert f"times as fast, accuracy {home.chosen.accuracy:.3f}" in page
    with pytest.raises(UsageError, match="needs labels in the first file, and new has none"):
        evaluate(small, tokenizer, {"new": files["new"], "home": rows}, then=(large, tokenizer))


def test_the_advice_comes_true(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = {name: examples_of("classification", 60, seed) for seed, name in enumerate(("home", "away", "new"))}
    model, tokenizer = trained(encoder, files["home"])
    # It knows the colours, but says red too often.
    with torch.no_grad():
        model.classifier.bias += torch.tensor([4.8 * (name == "red") for name in model.config.id2label.values()])
    model.save_pretrained("model")
    tokenizer.save_pretrained("model")
    files["new"] = [{"text": row["text"]} for row in files["new"] if row["label"] == "red"] * 2
    for name, rows in files.items():
        Path(f"the {name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [f"{name}=the {name}.jsonl" for name in files]
    main(["evaluate", "model", "--test_file", *command, "--bootstrap_samples", "5", "--output_dir", "report"])
    shown = capsys.readouterr().out
    said = re.search(r"away: (Matching .* from (\d\.\d+) to (\d\.\d+)\.) Run:\n  (.+)", shown)
    assert said is not None
    page = html.unescape(Path("report/report.html").read_text())
    assert said[1] in page
    assert said[4] in page
    assert re.search(
        r"new: .* at least [\d.]+% of its answers are wrong, and the estimate of [\d.]+, which relies on the model's "
        r"confidences, is too high\. .*\n  .* --match new --label_shares",
        shown,
    )
    main(shlex.split(said[4])[1:])
    for folder, accuracy in (("model", said[2]), (shlex.split(said[4])[-1], said[3])):
        classify = pipeline("text-classification", model=folder)
        right = sum(classify(row["text"])[0]["label"] == row["label"] for row in files["away"])
        assert f"{right / len(files['away']):.3f}" == accuracy
    # Each file keeps its colour: home is only in the chart of the curves and its own section.
    home, away = (
        f'<h2><span style="background:{color}"></span>{name}'
        for color, name in (("var(--c0)", "home"), ("var(--c1)", "away"))
    )
    section = page.partition(away)[2].partition("<h2>")[0]
    assert home in page
    assert set(re.findall(r'<circle [^>]*fill="([^"]+)"', section)) == {"var(--c1)"}
    assert re.findall(r'<circle [^>]*r="5" fill="([^"]+)"', page) == ["var(--c1)"]


def test_wrong_labels_at_home_are_listed(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model, tokenizer = trained(encoder, examples_of("classification", 60, 0), only_head=True)
    model.save_pretrained("model")
    tokenizer.save_pretrained("model")
    rows = examples_of("classification", 100, 1)
    wrong = range(0, 100, 20)
    for row in (rows[index] for index in wrong):
        row["label"] = COLOURS[COLOURS.index(row["label"]) - 1]
    rows[0]["text"] += " <b>"
    for name in ("home", "away"):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["evaluate", "model", "--test_file", "home=home.jsonl", "away=away.jsonl", "--bootstrap_samples", "5"]
    main([*command, "--output_dir", "report"])
    shown = capsys.readouterr().out
    assert "home: 5 of 100 labels look wrong, first of all " in shown
    assert "away: 5 of" not in shown
    with Path("report/suspicious_labels.csv").open(encoding="utf-8-sig", newline="") as file:
        listed = list(csv.DictReader(file))
    assert {row["place"] for row in listed} == {f"line {index + 1} of home.jsonl" for index in wrong}
    assert all(row["suggested_label"] in row["text"] and row["label"] not in row["text"] for row in listed)
    page = Path("report/report.html").read_text()
    assert all(html.escape(row["text"]) in page for row in listed)
    assert "<b></" not in page
    home, away = json.loads(Path("report/evaluation.json").read_text())["files"]
    assert home["label_errors"]["share"] == pytest.approx(0.05, abs=0.01)
    assert away["label_errors"] is None
    # With the labels set right, the next report has no such file.
    for row in listed:
        rows[int(row["place"].split()[1]) - 1]["label"] = row["suggested_label"]
    Path("home.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    main([*command, "--output_dir", "report", "--overwrite"])
    assert "look wrong" not in capsys.readouterr().out
    assert not Path("report/suspicious_labels.csv").exists()


ROW = {"text": "red cat", "label": "red"}
OTHER = {"text": "blue cat", "label": "blue"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([ROW], "at least one file to its rows, got a list"),
        ({}, "at least one file to its rows, got none"),
        ({"home": []}, "home has no examples"),
        ({" ": [ROW, OTHER]}, "each file needs a name, such as home, got ' '"),
        ({"home": [ROW, ROW]}, "home, the first file, must have at least two different labels .* the label red"),
        (
            {"home": [ROW, OTHER, {"text": "a", "label": "pink"}]},
            "have the labels pink, but the model only has red",
        ),
        (
            {"home": [ROW, OTHER, *({"text": "a", "label": str(number)} for number in range(7))]},
            "have the labels 0, 1, 2, 3, 4 and 2 more, but",
        ),
        (
            {"home": [ROW, OTHER, {"text": " \n", "label": "red"}]},
            r"not blank in every row; row 2 ",
        ),
        ({"home": [ROW, OTHER, {"text": "a", "label": None}]}, "label must contain a label in every row"),
        (
            {"home": [{**ROW, "label": float("nan")}, {**ROW, "label": 1.0}]},
            "a label in every row; .* nan",
        ),
        ({"home": [{"text": "red"}]}, "at least one file must have labels in the column label"),
        ({"home": [{"txt": "red", "label": "red"}]}, "--text_column text is not in the home examples; choose one of"),
        ({"home": [ROW, OTHER] * 3, "away": [ROW]}, "at least 4 texts to be compared with others, and away has fewer"),
    ],
)
def test_bad_rows_are_refused_before_anything_is_computed(
    encoder: Path, files: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(encoder, "classification")
    monkeypatch.setattr(type(model), "forward", None)
    with pytest.raises(ValueError, match=message):
        evaluate(model, AutoTokenizer.from_pretrained(encoder), files)


def test_models_that_cannot_be_evaluated_are_refused(encoder: Path) -> None:
    tokenizer, rows = AutoTokenizer.from_pretrained(encoder), {"home": [ROW, OTHER] * 3}
    with pytest.raises(ValueError, match=r"got a SequenceEncoderForMaskedLM\. `.* adapt --test_file` measures"):
        evaluate(SequenceEncoderForMaskedLM.from_pretrained(encoder), tokenizer, rows)
    model = model_of(encoder, "classification")
    with pytest.raises(ValueError, match="task classification and the labels red, green, blue, in this order, got ner"):
        evaluate(model, tokenizer, rows, also=[(model_of(encoder, "ner"), tokenizer)])
    with torch.no_grad():
        model.classifier.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN or infinite"):
        evaluate(model, tokenizer, rows)


@pytest.mark.parametrize(
    "options", [["evaluate", "model", "--test_file", "none.csv"], ["explain", "model", "--text", "a text"]]
)
def test_an_output_folder_that_cannot_be_written_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to("nowhere")
    # Nobody can create folders in /proc, not even root.
    for folder, reason in (("/proc/report", "/proc is not writable"), ("link", "link is not a folder")):
        with pytest.raises(SystemExit, match=f"{folder}/.* cannot be written: .*{reason}"):
            main([*options, "--output_dir", folder])
