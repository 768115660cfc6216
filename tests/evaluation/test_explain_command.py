"""`sequence-encoder explain` reads texts from a file, prints words with scores, and writes pages, data and pictures."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

import pytest
import torch

from sequence_encoder import AttentionMap, SequenceEncoderForSequenceClassification, explain
from sequence_encoder.__main__ import main
from sequence_encoder.tests.fixtures.explained_models import build
from sequence_encoder.tests.fixtures.texts import tokenizer_of


@pytest.fixture
def folder(tiny_config: Any, randomize: Any, tmp_path: Path) -> Path:
    model, tokenizer, _ = build("label", tiny_config, randomize)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_text_is_printed_and_saved(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "examples.csv").write_text("text,label\n<b>of files,<i>good\n<b>Return,<i>bad\n<b>the,<i>bad\n")
    output = tmp_path / "out"
    options = ["--text", "Return the $text of files", "--target", "good", "--top_words", "2", "--attention", "1"]
    near = ["--train_file", str(tmp_path / "examples.csv"), "--nearest", "2"]
    main(["explain", str(folder), *options, *near, "--output_dir", str(output)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("good: log-odds")
    assert lines[4].startswith("comprehensiveness")
    assert sum(line.startswith("near: ") for line in lines) == 2
    assert sorted(file.name for file in output.iterdir()) == [
        *("attention-00-layer-1.png", "explanation-00.png", "explanations.html", "explanations.jsonl")
    ]
    (saved,) = map(json.loads, (output / "explanations.jsonl").read_text().splitlines())
    assert [word["text"] for word in saved["words"]] == ["Return", "the", "$", "text", "of", "files"]
    shown = [line for line in lines if line.startswith("near: ")]
    assert shown == [f"near: {each['cosine']:.3f} {each['label']}: {each['text']}" for each in saved["neighbours"]]
    page = (output / "explanations.html").read_text()
    for each in saved["neighbours"]:
        assert f"<b>{escape(each['label'])}</b> {escape(each['text'])}</li>" in page
    with pytest.raises(SystemExit, match="contains explanations; choose another folder, or pass --overwrite"):
        main(["explain", str(folder), *options, "--output_dir", str(output)])
    (output / "mine.png").touch()
    main(["explain", str(folder), "--text", "files", "--output_dir", str(output), "--overwrite"])
    assert not (output / "attention-00-layer-1.png").exists()
    assert (output / "mine.png").exists()


def test_the_texts_that_an_encoder_compares_have_maps_of_their_own(
    tiny_config: Any, randomize: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    model, tokenizer, texts = build("similarity", tiny_config, randomize)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    pytest.importorskip("matplotlib")
    drawn = []
    monkeypatch.setattr(AttentionMap, "save", lambda self, file: drawn.append((self.tokens, file.name)))
    options = ["--text", texts[0], "--text_pair", texts[1], "--attention", "0", "--max_length", "6"]
    main(["explain", str(tmp_path / "model"), *options, "--output_dir", str(tmp_path / "out")])
    cut = [tuple(tokenizer.tokenize(text)[:4]) for text in texts]
    assert [tokens[1:-1] for tokens, _ in drawn] == cut
    assert [name for _, name in drawn] == ["attention-00-layer-0.png", "attention-01-layer-0.png"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("texts.jsonl", '{"a": "Return the text", "b": "files"}\n\n{"a": "the", "b": "text"}\n'),
        ("texts.json", '[{"a": "Return the text", "b": "files"}, {"a": "the", "b": "text"}]'),
        ("texts.csv", "a,b\nReturn the text,files\nthe,text\n"),
        ("texts.tsv", "a\tb\nReturn the text\tfiles\nthe\ttext\n"),
        ("lines.jsonl", '{"a": "Return the text", "b": "files"}\r\n{"a": "the\u2028text", "b": "text"}\r\n'),
    ],
)
def test_files_of_texts_are_read(folder: Path, tmp_path: Path, capsys: Any, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, newline="", encoding="utf-8")
    columns = ["--text_column", "a", "--text_pair_column", "b", "--method", "gradient_x_input"]
    main(["explain", str(folder), "--text_file", str(tmp_path / name), *columns])
    printed = capsys.readouterr().out
    assert printed.startswith("Return the text\nfiles\n")
    assert "of 2 explanations are more faithful" in printed


@pytest.mark.parametrize(
    ("saved", "dtype", "computed"),
    [("float32", "bfloat16", "bfloat16"), ("bfloat16", "float32", "float32"), ("bfloat16", "auto", "bfloat16")],
)
def test_the_dtype_is_chosen(folder: Path, capsys: Any, saved: str, dtype: str, computed: str) -> None:
    model = SequenceEncoderForSequenceClassification.from_pretrained(folder).to(getattr(torch, saved))
    model.save_pretrained(folder)
    capsys.readouterr()
    main(["explain", str(folder), "--text", "Return the text", "--target", "good", "--dtype", dtype])
    captured = capsys.readouterr()
    model.to(getattr(torch, computed))
    (expected,) = explain(model, tokenizer_of(), "Return the text", target="good")
    assert str(expected) in captured.out
    assert "Loading weights" not in captured.err


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("text\n \n", [], r"texts\[0\] must have words"),
        ("other\nx\n", [], "line 2 of .* has no column text; it has other"),
        ("text\n", [], "has no rows"),
        ("text\nx\n", ["--target", "none"], "target must be one of the labels bad, good, other, got 'none'"),
        ("text\nx\n", ["--device", "moon"], "--device moon"),
        ("text\nx\n", ["--attention", "3", "--output_dir", "new"], "--attention must be layers from 0 to 2, got 3"),
        ("text\tother\nx\ty\n", ["--delimiter", "\\t", "--target", "none"], "target must be one of the labels"),
        ("text\nx\n", ["--output_dir", "."], "contains other files"),
    ],
)
def test_mistakes_are_reported(
    folder: Path, tmp_path: Path, monkeypatch: Any, content: str, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("texts.csv").write_text(content)
    with pytest.raises(SystemExit, match=message):
        main(["explain", str(folder), "--text_file", "texts.csv", *options])


def test_the_console_shows_some_of_many_explanations_that_are_saved(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("sequence_encoder.evaluation.explanation.command._SHOWN", 1)
    (tmp_path / "texts.txt").write_text("the first\nthe second\n")
    main(["explain", str(folder), "--text_file", str(tmp_path / "texts.txt"), "--output_dir", str(tmp_path / "out")])
    shown = capsys.readouterr().out
    assert "the first" in shown
    assert "the second" not in shown
    assert "the console and the pictures show the first 1" in shown
    assert len((tmp_path / "out" / "explanations.jsonl").read_text().splitlines()) == 2
