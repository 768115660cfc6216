"""What the command line cannot do it says in one message that names the argument, before anything is done."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from sequence_encoder.__main__ import COMMANDS, main
from sequence_encoder.training import documentation


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and a disk that must not be read."""

    def refuse() -> NoReturn:
        raise AssertionError("The disk was read.")

    monkeypatch.setattr(documentation, "find_libraries", refuse)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def exit_of(*arguments: str) -> int | str | None:
    """What the command line exits with: a status, or a message, which goes with status 1."""
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    return stopped.value.code


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((), "command"), (("quickstrat",), "'quickstrat'"), (("--minutes", "3"), "command")],
    ids=["nothing", "misspelt", "option"],
)
def test_what_is_no_command_is_refused_with_the_commands_there_are(
    arguments: tuple[str, ...], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_of(*arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "usage: sequence-encoder" in shown.err
    assert [part for part in (named, *COMMANDS) if part not in shown.err] == []


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_lists_all_commands_with_what_they_do(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of(option) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    for name, command in COMMANDS.items():
        assert command.__doc__
        assert [line for line in shown.out.splitlines() if line.split()[:1] == [name] and command.__doc__ in line]


def test_help_of_a_command_lists_its_arguments(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of("quickstart", "--help") == 0
    shown = capsys.readouterr().out
    assert "usage: sequence-encoder quickstart" in shown
    assert [name for name in ("--minutes", "--output_dir", "--overwrite") if name not in shown] == []
    assert contents(folder) == {}


@pytest.mark.parametrize("minutes", ["1.5", "0", "-3", "nan", "inf"])
def test_too_few_minutes_are_refused_with_their_number(folder: Path, minutes: str) -> None:
    message = exit_of("quickstart", "--minutes", minutes)
    assert isinstance(message, str)
    assert [part for part in ("sequence-encoder quickstart", "--minutes", minutes) if part not in message] == []
    assert contents(folder) == {}


@pytest.mark.parametrize("inside", ["config.json", "more/notes.txt"], ids=["model", "notes"])
def test_an_existing_output_folder_is_refused_and_left_as_it_is(folder: Path, inside: str) -> None:
    output = folder / "my-model"
    (output / inside).parent.mkdir(parents=True)
    (output / inside).write_text('{"model_type": "bert"}')
    before = contents(folder)
    message = exit_of("quickstart", "--output_dir", str(output))
    assert isinstance(message, str)
    assert str(output) in message
    assert ("--overwrite" in message) == (inside == "config.json")
    assert contents(folder) == before


def test_an_existing_file_in_place_of_the_output_folder_is_refused(folder: Path) -> None:
    (folder / "my-model").write_text("precious")
    message = exit_of("quickstart", "--output_dir", "my-model")
    assert isinstance(message, str)
    assert "my-model exists" in message
    assert contents(folder) == {"my-model": b"precious"}


def test_arguments_that_a_command_does_not_know_are_named(folder: Path) -> None:
    message = exit_of("quickstart", "--epochs", "3")
    assert isinstance(message, str)
    assert "--epochs" in message
    assert contents(folder) == {}


def test_values_of_another_kind_are_named(folder: Path) -> None:
    message = exit_of("quickstart", "--minutes", "many")
    assert isinstance(message, str)
    assert [part for part in ("--minutes", "many") if part not in message] == []
    assert contents(folder) == {}


def test_the_module_runs_as_a_program_and_fails_with_a_message_alone(folder: Path) -> None:
    command = [sys.executable, "-m", "sequence_encoder", "quickstart", "--minutes", "0.5"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    assert finished.stdout == ""
    assert "--minutes" in finished.stderr.splitlines()[-1]
    assert "Traceback" not in finished.stderr
    assert contents(folder) == {}
