"""All commands share one parser and one vocabulary, and reject mistakes in one line before they do anything."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from sequence_encoder import __main__ as command_line
from sequence_encoder.__main__ import COMMANDS, find_command, main
from sequence_encoder.command_line.parser import Command, _trainer_options
from sequence_encoder.conversion.source_models import FAMILIES
from sequence_encoder.data import documentation
from sequence_encoder.tests.command_line.test_mistakes import ADAPT, CALIBRATE, PARSED
from sequence_encoder.tests.fixtures.forked_python import forked_python

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "sequence_encoder_cli.py"
# Runs the script with each command line, and prints the exit codes and which of the slow libraries were imported.
RUN_ALL = """
import contextlib, io, json, runpy, sys
codes = []
for arguments in json.loads(sys.argv[2]):
    sys.argv[1:] = arguments
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            runpy.run_path(SCRIPT, run_name="__main__")
        except SystemExit as stopped:
            codes.append(stopped.code)
print(json.dumps([codes, sorted({"torch", "transformers"} & set(sys.modules))]))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, and fail if a command searches the installed libraries."""

    def refuse() -> NoReturn:
        raise AssertionError("The command searched the installed libraries.")

    monkeypatch.setattr(documentation, "find_libraries", refuse)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def exit_of(*arguments: str) -> int | str | None:
    """Return the exit status of a command line, or its message if the status is 1."""
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    return stopped.value.code


def contents(folder: Path) -> dict[str, bytes | None]:
    """Return the contents of all files in a folder, and None for each subfolder."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def shown_default(each: dataclasses.Field[Any]) -> str:
    """Return the default of an option as the guide shows it."""
    value = each.default if each.default_factory is dataclasses.MISSING else each.default_factory()
    return "required" if value is dataclasses.MISSING else "none" if value in (None, []) else f"`{value}`"


def test_help_lists_all_commands_and_their_options(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of("-h") == 0
    summaries = capsys.readouterr().out.splitlines()
    for name in COMMANDS:
        command = find_command(name)
        assert f"  {name:<12}{command.summary.splitlines()[0]}" in summaries
        assert exit_of(name, "--help") == 0
        shown = capsys.readouterr().out
        assert command.name == name
        assert f"sequence-encoder {name} {command.example}" in shown
        fields = {each.name for kind in command.kinds for each in dataclasses.fields(kind)} - {*command.left_out({})}
        wanted = {each.upper() if each in command.positional else f"--{each}" for each in fields}
        assert wanted - set(re.split(r"[\s,\[\]]+", shown)) == set()
    assert contents(folder) == {}


@pytest.mark.parametrize("task", ["classification", "ner", "qa", "multiple-choice", "embedding", "ranking"])
def test_help_of_a_task_shows_only_its_own_arguments(
    task: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert exit_of("adapt", "--task", task, "--help") == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) <= 60
    assert [name for name in ("MODEL", "--train_file", "--output_dir", "--learning_rate") if name not in shown] == []
    assert f"--task {task}" in shown
    assert ("--doc_stride" in shown) == (task == "qa")
    assert ("--choice_columns" in shown) == (task == "multiple-choice")
    assert ("--matryoshka_dims" in shown) == (task == "embedding")
    assert ("prompt" in shown) == (task == "classification")
    assert "--rank" not in shown
    assert exit_of("adapt", "--task", "ner", "--tuning", "lora", "--help") == 0
    shown = capsys.readouterr().out
    assert "--rank" in shown
    assert "(default: 0.002)" in shown


def test_options_of_several_commands_have_the_name_the_help_and_the_default_of_the_guide() -> None:
    rows = re.findall(r"^\| `(?:--)?(\w+)` \| (.+) \| (.+) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    uses: dict[str, dict[Command, dataclasses.Field[Any]]] = {}
    for command in map(find_command, COMMANDS):
        for each in (each for kind in command.kinds for each in dataclasses.fields(kind)):
            uses.setdefault(command.shown(each.name).removeprefix("--"), {})[command] = each
    trainer = set(_trainer_options().values())
    of_trainer = {name for name in uses if name in trainer and all(command.with_trainer for command in uses[name])}
    several = {name for name, by in uses.items() if len(by) > 1}
    assert {name for name, _, _ in rows} == several - of_trainer
    for name, words, default in rows:
        fields = uses[name].values()
        assert [each.metadata["help"] for each in fields if not each.metadata["help"].startswith(words)] == [], name
        defaults = set(map(shown_default, fields))
        assert default == (defaults.pop() if len(defaults) == 1 else "varies"), name


@pytest.mark.parametrize("inside", ["config.json", "more/notes.txt", None], ids=["model", "notes", "file"])
def test_an_existing_output_is_rejected_and_unchanged(folder: Path, inside: str | None) -> None:
    output = folder / "my-model"
    if inside is None:
        output.write_text("precious")
    else:
        (output / inside).parent.mkdir(parents=True)
        (output / inside).write_text('{"model_type": "bert"}')
    before = contents(folder)
    message = exit_of("quickstart", "--output_dir", str(output))
    assert isinstance(message, str)
    assert str(output) in message
    assert ("--overwrite" in message) == (inside == "config.json")
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [("--adaptation_steps", "0", "--adaptation_steps"), ("--output_dir", "my-model", "my-model exists")],
    ids=["while parsing", "while running"],
)
def test_the_module_runs_as_a_program_and_fails_with_a_message_alone(
    folder: Path, option: str, value: str, told: str
) -> None:
    (folder / "my-model").mkdir()
    (folder / "my-model" / "notes.txt").write_text("mine")
    before = contents(folder)
    command = [forked_python(), "-m", "sequence_encoder", "quickstart", option, value]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    assert finished.stdout == ""
    assert told in finished.stderr.splitlines()[-1]
    assert "Traceback" not in finished.stderr
    assert contents(folder) == before


def test_the_help_lists_ten_commands_first(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    first, _, more = capsys.readouterr().out.partition("\nmore:\n")
    listed = [re.findall(r"^  (\w+) ", part, re.MULTILINE) for part in (first, more)]
    assert [*listed[0], *listed[1]] == list(COMMANDS)
    assert len(listed[0]) <= 10


def test_help_and_errors_do_not_import_torch(folder: Path) -> None:
    (folder / "settings.yaml").write_text("corpus: texts\nsise: tiny\n")
    helps = [["--help"], ["adapt", "--task", "qa", "-h"], *([name, "--help"] for name in COMMANDS)]
    # These errors are found while a command runs.
    mistakes = [each.split() for each, _ in PARSED if not re.match(f"evaluate|{CALIBRATE}", each)]
    mistakes += [["pretrain", "settings.yaml"], ["embed", "settings.yaml"]]
    program = f"SCRIPT = {str(SCRIPT)!r}\n{RUN_ALL}"
    command = [sys.executable, "-c", program, "", json.dumps([*helps, *mistakes])]
    codes, imported = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert imported == []
    assert codes[: len(helps)] == [0] * len(helps)
    assert len(codes) == len(helps) + len(mistakes)
    assert 0 not in codes[len(helps) :]


@pytest.mark.parametrize("arguments", [("--help",), ("adapt", "--help")])
def test_output_that_nobody_reads_is_no_error(arguments: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, SCRIPT, *arguments]
    with open(writing, "wb") as closed:
        ran = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (1, "")


def test_the_guide_lists_every_family_that_can_be_converted() -> None:
    guide = (ROOT / "docs" / "convert.md").read_text()
    table = guide.partition("| Family | `--to` |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| [^|]+ \| `([\w-]+)` \|", table, re.MULTILINE) == list(FAMILIES)


def test_a_missing_library_is_reported_before_torch_is_imported(folder: Path) -> None:
    pretrain = ("pretrain", "--corpus", "train.csv")
    (folder / "train.csv").write_text("text,label\na text,1\n")
    program = f"import sys; sys.modules['datasets'] = None; SCRIPT = {str(SCRIPT)!r}\n{RUN_ALL}"
    command = [sys.executable, "-c", program, str(SCRIPT), json.dumps([ADAPT.split(), pretrain])]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    codes, imported = json.loads(ran.stdout)
    assert ["datasets" in code and "pip install" in code for code in codes] == [True, True]
    assert imported == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KeyboardInterrupt(), "Interrupted."),
        (OSError(errno.ENOSPC, "No space left on device"), "The disk is full ("),
        (RuntimeError("IO: No space left on device\nbacktrace"), "The disk is full (IO: No space left on device). "),
    ],
)
def test_an_interruption_and_a_full_disk_end_a_command_with_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: BaseException, expected: str
) -> None:
    def fail(*arguments: Any) -> NoReturn:
        raise error

    monkeypatch.setattr(command_line, "_run", fail)
    code = exit_of("inspect", "model")
    message = code if isinstance(code, str) else capsys.readouterr().err.strip()
    assert message.startswith(f"sequence-encoder inspect: {expected}")
    assert len(message.splitlines()) == 1
    assert (code == 130) == isinstance(error, KeyboardInterrupt)
