"""The command line rejects bad arguments with one message that names the argument, before it does anything."""

from __future__ import annotations

import dataclasses
import errno
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
from transformers import TrainingArguments

from sequence_encoder.__main__ import _FAMILIES, COMMANDS, main
from sequence_encoder.command_line.parser import _trainer_options
from sequence_encoder.conversion.source_models import FAMILIES
from sequence_encoder.data import documentation
from sequence_encoder.tests.forked_python import forked_python

SCRIPT = Path(__file__).resolve().parents[1] / "sequence_encoder_cli.py"
ADAPT = ("adapt", "--task", "classification", "--from", "somewhere", "--train_file", "train.csv")
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


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((), "command"), (("quickstrat",), "'quickstrat'"), (("--pretraining_steps", "3"), "command")],
    ids=["nothing", "misspelt", "option"],
)
def test_an_unknown_command_is_rejected_with_the_list_of_commands(
    arguments: tuple[str, ...], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_of(*arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "usage: sequence-encoder" in shown.err
    assert [part for part in (named, *COMMANDS) if part not in shown.err] == []


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_lists_and_describes_all_commands(option: str, capsys: pytest.CaptureFixture[str]) -> None:
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
    assert [name for name in ("--pretraining_steps", "--output_dir", "--overwrite") if name not in shown] == []
    assert contents(folder) == {}


@pytest.mark.parametrize("option", ["--pretraining_steps", "--adaptation_steps"])
@pytest.mark.parametrize("steps", ["0", "-3"])
def test_too_few_steps_are_rejected_with_their_number(folder: Path, option: str, steps: str) -> None:
    message = exit_of("quickstart", option, steps)
    assert isinstance(message, str)
    assert [part for part in ("sequence-encoder quickstart", option, steps) if part not in message] == []
    assert contents(folder) == {}


@pytest.mark.parametrize("inside", ["config.json", "more/notes.txt"], ids=["model", "notes"])
def test_an_existing_output_folder_is_rejected_and_unchanged(folder: Path, inside: str) -> None:
    output = folder / "my-model"
    (output / inside).parent.mkdir(parents=True)
    (output / inside).write_text('{"model_type": "bert"}')
    before = contents(folder)
    message = exit_of("quickstart", "--output_dir", str(output))
    assert isinstance(message, str)
    assert str(output) in message
    assert ("--overwrite" in message) == (inside == "config.json")
    assert contents(folder) == before


def test_an_existing_file_in_place_of_the_output_folder_is_rejected(folder: Path) -> None:
    (folder / "my-model").write_text("precious")
    message = exit_of("quickstart", "--output_dir", "my-model")
    assert isinstance(message, str)
    assert "my-model exists" in message
    assert contents(folder) == {"my-model": b"precious"}


def test_an_unknown_argument_is_named(folder: Path) -> None:
    message = exit_of("quickstart", "--epochs", "3")
    assert isinstance(message, str)
    assert "--epochs" in message
    assert contents(folder) == {}


def test_a_value_of_the_wrong_type_is_named(folder: Path) -> None:
    message = exit_of("quickstart", "--adaptation_steps", "many")
    assert isinstance(message, str)
    assert [part for part in ("--adaptation_steps", "many") if part not in message] == []
    assert contents(folder) == {}


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


def test_help_and_errors_do_not_import_torch(folder: Path) -> None:
    helps = [["--help"], ["adapt", "--help"], ["adapt", "--task", "qa", "-h"], ["pretrain", "--help"]]
    helps += [["quickstart", "--help"], ["convert", "--help"], ["embed", "--help"], ["predict", "-h"]]
    mistakes = [
        ["adopt"],
        ["adapt"],
        ["adapt", "--task", "nothing"],
        [*ADAPT, "--lr", "3"],
        [*ADAPT, "--seeds", "many"],
    ]
    mistakes += [[*ADAPT, "--tuning", "lora", "--task", "embedding"], ["pretrain", "--size", "huge"]]
    mistakes += [["quickstart", "--minutes", "0"], ["convert", "--overwrite"], ["convert", "a", "b", "--to", "gpt"]]
    (folder / "settings.yaml").write_text("corpus: texts\nsise: tiny\n")
    mistakes.append(["pretrain", "settings.yaml"])
    mistakes += [["embed", "model"], ["embed", "model", "--output_dir", "out", "--corpus", "settings.yaml"]]
    mistakes += [["predict", "model", "--output_dir", "out", "--precision", "int8"], ["embed", "settings.yaml"]]
    program = f"SCRIPT = {str(SCRIPT)!r}\n{RUN_ALL}"
    command = [sys.executable, "-c", program, "", json.dumps([*helps, *mistakes])]
    codes, imported = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert imported == []
    assert codes[: len(helps)] == [0] * len(helps)
    assert len(codes) == len(helps) + len(mistakes)
    assert 0 not in codes[len(helps) :]


def test_the_script_imports_the_package_before_it_runs_a_command(folder: Path) -> None:
    (folder / "my-model").mkdir()
    (folder / "my-model" / "notes.txt").write_text("mine")
    program = f"""
import runpy, sys
sys.argv[1:] = ["quickstart", "--output_dir", "my-model"]
try:
    runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
except SystemExit as stopped:
    print(stopped.code)
from transformers import AutoConfig
print(type(AutoConfig.for_model("sequence_encoder")).__module__)
"""
    finished = subprocess.run([forked_python(), "-c", program], capture_output=True, text=True, check=True)
    message, module = finished.stdout.splitlines()
    assert "my-model exists" in message
    assert module == "sequence_encoder.configuration.configuration_sequence_encoder"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((*ADAPT, "--lr", "1"), "--lr (did you mean --learning_rate?)"),
        ((*ADAPT, "--batch-size", "8"), "--batch-size (did you mean --per_device_train_batch_size?)"),
        ((*ADAPT, "--epochs=3"), "--epochs (did you mean --num_train_epochs?)"),
        ((*ADAPT, "--gradient_acumulation_steps", "3"), "(did you mean --gradient_accumulation_steps?)"),
        ((*ADAPT, "--zzz", "--nonsense"), "--zzz, --nonsense. See sequence-encoder adapt --help."),
        (
            ("adapt", "--data", "a.csv", "--model", "b"),
            "--data (did you mean --train_file?), --model (did you mean --from?)",
        ),
        (
            ("pretrain", "--data", "a.txt", "--out", "b"),
            "--data (did you mean --corpus?), --out (did you mean --output_dir?)",
        ),
        (("convert", "a", "b", "--overwrite"), "--overwrite (did you mean --force?)"),
        (("adapt", "--train_file", "a.csv"), "--task and --from must be given"),
    ],
)
def test_all_unknown_arguments_are_named_with_suggestions(arguments: tuple[str, ...], expected: str) -> None:
    message = exit_of(*arguments)
    assert isinstance(message, str)
    assert expected in message
    assert len(message.splitlines()) == 1


def test_a_second_value_is_named_with_its_option() -> None:
    command = ["embed", "minilm", "--output_dir", "vectors", "--corpus", "a.csv", "b.csv"]
    with pytest.raises(SystemExit, match=r"b\.csv does not belong to any option; --corpus takes one value\."):
        main(command)


def test_arguments_are_not_abbreviated() -> None:
    assert "--learning_rate" in str(exit_of(*ADAPT, "--learning", "1"))
    assert "--base-model" in str(exit_of("convert", "a", "b", "--base"))


@pytest.mark.parametrize("task", ["classification", "ner", "qa", "multiple-choice", "embedding", "ranking"])
def test_help_of_a_task_shows_only_its_own_arguments(
    task: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert exit_of("adapt", "--task", task, "--help") == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) <= 60
    assert [name for name in ("--from", "--train_file", "--output_dir", "--learning_rate") if name not in shown] == []
    assert ("--doc_stride" in shown) == (task == "qa")
    assert ("--choice_columns" in shown) == (task == "multiple-choice")
    assert ("--matryoshka_dims" in shown) == (task == "embedding")
    assert ("prompt" in shown) == (task == "classification")
    assert "--rank" not in shown
    assert exit_of("adapt", "--task", "ner", "--tuning", "lora", "--help") == 0
    shown = capsys.readouterr().out
    assert "--rank" in shown
    assert "(default: 0.002)" in shown


@pytest.mark.parametrize("command", ["adapt", "pretrain"])
def test_trainer_options_appear_only_in_help_all(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of(command, "--help") == 0
    short = capsys.readouterr().out
    assert f"  sequence-encoder {command} --" in short
    assert "--fsdp" not in short
    assert exit_of(command, "--help-all") == 0
    everything = capsys.readouterr().out
    names = {f"--{each.name}" for each in dataclasses.fields(TrainingArguments) if each.init}
    shown = set(everything.replace(",", " ").split())
    assert names - shown == set()
    assert [word for word in ("galore", "npu_fused", "4bit") if word in everything] == []


def test_hard_coded_names_match_the_libraries() -> None:
    names = {f"--{each.name}" for each in dataclasses.fields(TrainingArguments) if each.init}
    assert names - set(_trainer_options()) == set()
    assert tuple(FAMILIES) == _FAMILIES


def test_the_guide_lists_every_family_that_can_be_converted() -> None:
    guide = (Path(__file__).parents[1] / "docs" / "convert.md").read_text()
    table = guide.partition("| Family | `--to` |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| [^|]+ \| `([\w-]+)` \|", table, re.MULTILINE) == list(FAMILIES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rank: many", "--rank: invalid int value: 'many'"),
        ("rank: {a: 1}", "--rank: invalid int value"),
        ("overwrite: perhaps", "--overwrite: Truthy value expected: got perhaps"),
        (
            "lr_scheduler_kwargs: '{a'",
            "--lr_scheduler_kwargs must be a JSON object or a file with one, got '{a'",
        ),
        ("lr: 3\nepochs: 2", "--lr (did you mean --learning_rate?), --epochs (did you mean --num_train_epochs?)"),
        ("- task", "must contain names and values, got list"),
        ("task: [", "settings.yaml cannot be read"),
    ],
)
def test_invalid_settings_are_named(folder: Path, text: str, expected: str) -> None:
    (folder / "settings.yaml").write_text(text)
    assert expected in str(exit_of("adapt", "settings.yaml", *ADAPT[1:]))


@pytest.mark.parametrize(
    ("missing", "arguments", "expected"),
    [
        ("datasets", ADAPT, "sequence-encoder[adapt]"),
        ("sklearn", ADAPT, "sequence-encoder[adapt]"),
        ("peft", (*ADAPT, "--tuning", "lora"), "--tuning lora needs peft"),
        ("optuna", (*ADAPT, "--search_trials", "2"), "--search_trials needs optuna"),
        ("sentence_transformers", (*ADAPT, "--task", "ranking"), "--task ranking needs sentence_transformers"),
        ("tensorboard", (*ADAPT, "--report_to", "tensorboard"), "sequence-encoder[train]"),
        ("matplotlib", ("pretrain", "--corpus", "train.csv"), "pip install 'sequence-encoder[train]'"),
        ("tensorboard", ("pretrain", "--corpus", "train.csv"), "pretrain: pretrain needs tensorboard,"),
    ],
)
def test_a_missing_library_is_reported_with_its_pip_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch, missing: str, arguments: tuple[str, ...], expected: str
) -> None:
    (folder / "train.csv").write_text("text,label\na text,1\n")
    monkeypatch.setitem(sys.modules, missing, None)
    message = exit_of(*arguments)
    assert isinstance(message, str)
    assert len(message.splitlines()) == 1
    assert [part for part in (expected, missing, "not installed", "pip install") if part not in message] == []
    assert sorted(contents(folder)) == ["train.csv"]


def test_a_missing_library_is_reported_before_torch_is_imported(folder: Path) -> None:
    pretrain = ("pretrain", "--corpus", "train.csv")
    (folder / "train.csv").write_text("text,label\na text,1\n")
    program = f"import sys; sys.modules['datasets'] = None; SCRIPT = {str(SCRIPT)!r}\n{RUN_ALL}"
    command = [sys.executable, "-c", program, str(SCRIPT), json.dumps([ADAPT, pretrain])]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    codes, imported = json.loads(ran.stdout)
    assert ["datasets" in code and "pip install" in code for code in codes] == [True, True]
    assert imported == []


def test_ctrl_c_ends_a_command_with_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setitem(COMMANDS, "export", lambda arguments: interrupted)
    assert exit_of("export") == 130
    assert capsys.readouterr().err == "\nsequence-encoder export: Interrupted.\n"


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("IO: No space left on device\nbacktrace")]
)
def test_a_full_disk_ends_a_command_with_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def write() -> NoReturn:
        raise error

    monkeypatch.setitem(COMMANDS, "export", lambda arguments: write)
    expected = r"export: The disk is full \(.*No space left on device\)\. Free some space and run the same command"
    with pytest.raises(SystemExit, match=expected):
        main(["export"])
