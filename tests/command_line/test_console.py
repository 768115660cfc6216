"""On the console, commands print nothing that users cannot act on, and training prints one table."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers.utils.logging import is_progress_bar_enabled

from sequence_encoder.__main__ import main
from sequence_encoder.command_line import progress
from sequence_encoder.tests.fixtures.other_families import tiny_model
from sequence_encoder.tests.fixtures.pretraining_runs import command, run_here, write_corpus


@pytest.fixture
def warned() -> Iterator[list[str]]:
    """Return the list that collects the log messages of transformers."""
    messages: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    listener = Listener()
    logging.getLogger("transformers").addHandler(listener)
    yield messages
    logging.getLogger("transformers").removeHandler(listener)


def test_the_table_has_a_row_for_each_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["pretrain", *command(write_corpus(tmp_path), tmp_path / "out", max_steps=6, eval_documents=3, eval_steps=2)])
    captured = capsys.readouterr()
    lines = [line.split() for line in captured.out.splitlines()]
    (head,) = [place for place, line in enumerate(lines) if line[:1] == ["step"]]
    names = lines[head]
    assert names[2:] == [
        *("loss", "sop_accuracy", "eval_loss", "eval_mlm_accuracy", "eval_sop_accuracy"),
        "tokens_per_second",
    ]
    rows = lines[head + 1 :]
    assert [row[0] for row in rows] == ["2", "4", "6", "Saved"]
    assert "{" not in captured.out + captured.err
    assert "Tokenising" not in captured.err


def test_a_resumed_run_logs_no_warnings(tmp_path: Path, warned: list[str]) -> None:
    corpus = write_corpus(tmp_path)
    run_here(corpus, tmp_path / "out", max_steps=4, save_steps=0.5)
    run_here(corpus, tmp_path / "out", max_steps=8, save_steps=0.5, resume=True)
    assert warned == []


def test_loading_a_model_prints_nothing_of_transformers(
    tmp_path: Path, warned: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_model("Bert", "ForMaskedLM").save_pretrained(tmp_path / "theirs")
    capsys.readouterr()
    main(["convert", str(tmp_path / "theirs"), "--output_dir", str(tmp_path / "ours"), "--base_model"])
    assert capsys.readouterr().err == ""
    assert warned == []
    # In Python, transformers shows its bars as before.
    assert is_progress_bar_enabled()
    # What takes long shows how much is left.
    monkeypatch.setattr(progress, "_DELAY", 0.0)
    monkeypatch.setattr(progress, "_INTERVAL", 0.0)
    main(["convert", str(tmp_path / "theirs"), "--output_dir", str(tmp_path / "ours"), "--base_model", "--overwrite"])
    shown = capsys.readouterr().err
    for counted in ("Loading the weights: ", "Converting the weights: ", "Running the model on sample texts: "):
        assert re.search(rf"{counted}1 of \d+ \w+ \(\d+%\), 00:0\d left", shown)


def test_the_table_of_a_long_training_has_at_most_twenty_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_here(write_corpus(tmp_path), tmp_path / "out", max_steps=44, save_strategy="no", sop_weight=0)
    rows = [line for line in capsys.readouterr().out.splitlines() if line[:5].strip().isdigit()]
    assert 10 <= len(rows) <= 20
    assert rows[-1].split()[0] == "44"
