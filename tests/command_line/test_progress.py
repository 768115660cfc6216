"""Long work shows how far it has come: as a bar on a terminal, and as plain lines in the log of a command."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sequence_encoder.command_line import progress
from sequence_encoder.command_line.progress import Progress, Steps, lines_in_logs
from sequence_encoder.data.row_estimates import estimate_rows


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return `wait(seconds)`, which moves the clock on."""
    now = [0.0]
    monkeypatch.setattr(progress, "clock", lambda: now[0])

    def move(seconds: float) -> None:
        now[0] += seconds

    return move


def test_a_log_gets_a_line_after_two_seconds_and_then_every_ten(
    wait: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with lines_in_logs(), Progress("Computing", 100, "row") as rows:
        for _ in range(50):
            wait(0.5)
            rows.update()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "Computing: 4 of 100 rows (4%), 00:48 left",
        "Computing: 24 of 100 rows (24%), 00:38 left",
        "Computing: 44 of 100 rows (44%), 00:28 left",
    ]


def test_a_log_names_the_step_and_how_long_it_has_taken(
    wait: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with lines_in_logs(), Steps("Exporting", 2) as steps:
        steps.begin("tracing the graph")
        wait(3)
        inner = Progress("Encoding", unit="text")
        wait(1)
        inner.update(7)
        wait(2)
        inner.update(7)
        inner.close()
        steps.begin("writing the graph")
        wait(75)
        assert str(steps) == "Exporting, step 2 of 2: writing the graph, 01:15 so far"
    # Of two things that run, the inner one says how far it is.
    assert capsys.readouterr().err.splitlines() == ["Encoding: 14 texts, 00:03 so far"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_a_bar_that_vanishes(monkeypatch: pytest.MonkeyPatch) -> None:
    # This one has no width, as that of `docker run --tty` at first.
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "_DELAY", 0.0)
    with Progress("Computing", 40, "row") as rows:
        rows.update(10)
        rows.set_postfix_str("5 tokens/s", refresh=True)
    shown = terminal.getvalue()
    assert "Computing:  25%" in shown
    assert "10/40" in shown
    assert "5 tokens/s" in shown
    assert "\n" not in shown
    assert shown.split("\r")[-2].strip() == ""


def test_the_number_of_rows_is_estimated_from_the_size(tmp_path: Path) -> None:
    table = 'text,label\n"two\nlines",1\n"a ""quote""\n",2\nplain,3'
    (tmp_path / "a.csv").write_text(table)
    (tmp_path / "b.jsonl").write_text('{"text": "a \\" quote"}\n' * 5)
    assert estimate_rows("csv", [tmp_path / "a.csv"]) == 3
    assert estimate_rows("json", [tmp_path / "b.jsonl"]) == 5
    assert estimate_rows("json", [tmp_path / "c.json"]) is None
    assert estimate_rows("csv", [tmp_path / "a.csv.gz"]) is None
