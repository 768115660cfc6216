"""`sequence-encoder explain` reads texts from a file, prints words with scores, and writes pages, data and pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sequence_encoder.__main__ import main
from sequence_encoder.command_line import UsageError
from sequence_encoder.explanation import explain
from sequence_encoder.explanation.arguments import EXPLAIN, METHOD_NAMES
from sequence_encoder.explanation.methods import METHODS
from sequence_encoder.tests.explained_models import build


@pytest.fixture
def folder(tiny_config: Any, randomize: Any, tmp_path: Path) -> Path:
    model, tokenizer, _ = build("label", tiny_config, randomize)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_text_is_printed_and_saved(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "examples.csv").write_text("text,label\nof files,good\nReturn,bad\n")
    output = tmp_path / "out"
    options = ["--text", "Return the $text of files", "--target", "good", "--top_words", "2", "--attention", "1"]
    main(["explain", str(folder), *options, "--examples", str(tmp_path / "examples.csv"), "--output_dir", str(output)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("good: log-odds")
    assert lines[4].startswith("comprehensiveness")
    assert sum(line.startswith("near: ") for line in lines) == 2
    assert sorted(file.name for file in output.iterdir()) == [
        *("attention-00-layer-1.png", "explanation-00.png", "explanations.html", "explanations.jsonl")
    ]
    (saved,) = map(json.loads, (output / "explanations.jsonl").read_text().splitlines())
    assert [word["text"] for word in saved["words"]] == ["Return", "the", "$", "text", "of", "files"]
    with pytest.raises(SystemExit, match="contains explanations; choose another folder, or pass --overwrite"):
        main(["explain", str(folder), *options, "--output_dir", str(output)])
    main(["explain", str(folder), "--text", "files", "--output_dir", str(output), "--overwrite"])
    assert not (output / "attention-00-layer-1.png").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("texts.jsonl", '{"a": "Return the text", "b": "files"}\n\n{"a": "the", "b": "text"}\n'),
        ("texts.json", '[{"a": "Return the text", "b": "files"}, {"a": "the", "b": "text"}]'),
        ("texts.csv", "a,b\nReturn the text,files\nthe,text\n"),
        ("texts.tsv", "a\tb\nReturn the text\tfiles\nthe\ttext\n"),
    ],
)
def test_files_of_texts_are_read(folder: Path, tmp_path: Path, capsys: Any, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    columns = ["--text_column", "a", "--text_pair_column", "b", "--method", "gradient_x_input"]
    main(["explain", str(folder), "--file", str(tmp_path / name), *columns])
    printed = capsys.readouterr().out
    assert printed.startswith("Return the text\nfiles\n")
    assert "of 2 explanations are more faithful" in printed


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("text\n \n", [], r"texts\[0\] must have words"),
        ("other\nx\n", [], "line 2 of .* has no column text; it has other"),
        ("text\n", [], "has no rows"),
        ("text\nx\n", ["--target", "none"], "target must be one of the labels bad, good, other, got 'none'"),
        ("text\nx\n", ["--text_pair", "x"], "--text_pair needs --text"),
        ("text\nx\n", ["--device", "moon"], "--device moon"),
        ("text\nx\n", ["--attention", "1"], "--attention needs --output_dir"),
        ("text\nx\n", ["--output_dir", "."], "contains other files"),
    ],
)
def test_mistakes_are_reported(
    folder: Path, tmp_path: Path, monkeypatch: Any, content: str, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("texts.csv").write_text(content)
    with pytest.raises(SystemExit, match=message):
        main(["explain", str(folder), "--file", "texts.csv", *options])


def test_text_or_file_is_needed() -> None:
    with pytest.raises(UsageError, match="exactly one of --text and --file is needed, got neither"):
        EXPLAIN.check(["model"])


def test_an_adapter_is_explained(tiny_config: Any, randomize: Any, tmp_path: Path, capsys: Any) -> None:
    model, tokenizer, texts = build("adapter", tiny_config, randomize)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    main(["explain", str(tmp_path), "--text", texts[0], "--target", "good"])
    assert f"good: log-odds {explain(model, tokenizer, texts, target='good')[0].value:.3f}" in capsys.readouterr().out


def test_the_command_knows_all_methods() -> None:
    assert tuple(METHODS) == METHOD_NAMES
