"""All commands share one parser and one vocabulary, and reject mistakes in one line before they do anything."""

from __future__ import annotations

import dataclasses
import errno
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
from transformers import TrainingArguments

from sequence_encoder import __main__ as command_line
from sequence_encoder.__main__ import COMMANDS, find_command, main
from sequence_encoder.command_line.parser import Command, _trainer_options
from sequence_encoder.conversion.source_models import FAMILIES
from sequence_encoder.data import documentation
from sequence_encoder.tests.forked_python import forked_python

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "sequence_encoder_cli.py"
ADAPT = "adapt somewhere --task classification --train_file train.csv"
CALIBRATE = "calibrate a --output_dir b --calibration_file"
EVALUATE = "evaluate model --output_dir report --test_file a=x.csv"
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

# Each mistake of a user, and what the error says. The folder has a file settings.yaml, whose content may come first.
MISTAKES: list[tuple[str, str]] = [
    ("", "COMMAND must be given; the commands are quickstart, pretrain, "),
    ("quickstrat", "there is no command 'quickstrat' (did you mean quickstart?); the commands are "),
    ("--pretraining_steps 3", "there is no command '--pretraining_steps'; the commands are "),
    # Names
    (f"{ADAPT} --lr 1", "--lr (did you mean --learning_rate?)"),
    (f"{ADAPT} --batch-size 8", "--batch-size (did you mean --per_device_train_batch_size?)"),
    (f"{ADAPT} --epochs=3", "--epochs (did you mean --num_train_epochs?)"),
    (f"{ADAPT} --learning 3", "--learning (did you mean --learning_rate?)"),
    (f"{ADAPT} --gradient_acumulation_steps 3", "(did you mean --gradient_accumulation_steps?)"),
    (f"{ADAPT} --zzz --nonsense", "no option --zzz, --nonsense. See sequence-encoder adapt --help."),
    ("adapt --data a.csv --from b", "--data (did you mean --train_file?), --from (did you mean MODEL?)"),
    ("pretrain --data a.txt --out b", "--data (did you mean --corpus?), --out (did you mean --output_dir?)"),
    ("convert a --force", "--force (did you mean --overwrite?)"),
    ("convert a --base", "--base (did you mean --base_model?)"),
    ("export a --to onnx", "--to (did you mean --format?)"),
    ("embed a --precison int8", "--precison (did you mean --precision?)"),
    ("predict a --precision float32", "--precision (did you mean --dtype?)"),
    ("calibrate a --file b.csv", "--file (did you mean --calibration_file?)"),
    ("explain a --file b.csv", "--file (did you mean --text_file?)"),
    ("serve a --prot 1", "--prot (did you mean --port?)"),
    ("inspect a --jsn", "--jsn (did you mean --json?)"),
    # Places
    ("adapt", "MODEL and --task must be given. For example: sequence-encoder adapt "),
    ("embed --corpus a.csv --output_dir b", "MODEL must be given, before the options. For example: sequence-encoder "),
    ("inspect --json a", "MODEL must be given, before the options. "),
    ("embed", "MODEL, --corpus and --output_dir must be given. "),
    ("quantize a", "--output_dir must be given. For example: sequence-encoder quantize "),
    ("predict a --output_dir b", "--corpus must be given. "),
    ("search", "QUERY and --index must be given. "),
    ("search package.json", "search: --index must be given. "),
    ("search -5", "search: --index must be given. "),
    ("calibrate a --output_dir b", "--calibration_file must be given. "),
    ("evaluate a --output_dir b", "--test_file must be given. "),
    ("convert a b", "b is unexpected: convert takes only MODEL. For example: sequence-encoder convert "),
    ("embed a --output_dir b --corpus a.csv b.csv", "b.csv does not belong to any option; --corpus takes one value."),
    ("explain a", "exactly one of --text and --text_file is needed, got neither"),
    # Values
    (f"{ADAPT} --seeds many", "--seeds must be an integer, got 'many'."),
    (f"{ADAPT} --seconds many", "--seconds must be a number, got 'many'."),
    (f"{ADAPT} --tuning", "--tuning needs a value."),
    ("pretrain --size huge", "--size must be one of tiny, mini, small, medium, base, large, got 'huge'."),
    ("embed a --output_dir b --corpus c --format csv", "--format must be one of "),
    (f"{ADAPT} --tuning lora --task embedding", "--tuning lora does not support --task embedding; choose one of "),
    ("quickstart --pretraining_steps 0", "--pretraining_steps must be at least 1, got 0."),
    ("quickstart --adaptation_steps -3", "--adaptation_steps must be at least 1, got -3."),
    ("quickstart --seed -1", "--seed must be from 0 to 4294967295, got -1."),
    ("quickstart bert --pretraining_steps 9", "--pretraining_steps has no effect with MODEL"),
    ("pretrain m --corpus a.txt --size tiny", "--size has no effect with MODEL; leave one of them out."),
    ("pretrain m --corpus a.txt --vocab_size 300", "--vocab_size has no effect with MODEL"),
    ("pretrain --tokenizer m --corpus a.txt --vocab_size 300", "--vocab_size has no effect with --tokenizer"),
    (f"{ADAPT} --task multi-label --label_separator=", "--label_separator must have at least one character"),
    ("quantize a --output_dir b --cosine 2", "--cosine must be between 0 and 1, got 2.0."),
    (f"{CALIBRATE} absent.csv --coverages 2", "--coverages must be numbers between 0 and 1, such as 0.9, got 2.0."),
    (f"{CALIBRATE} absent.csv", "--calibration_file absent.csv: there is no such file"),
    (f"{CALIBRATE} header.csv", "--calibration_file header.csv has no examples"),
    (f"{CALIBRATE} absent.csv --output_dir notes", "notes exists and does not contain a saved model"),
    ("serve a --port -1", "--port must be from 0 to 65535, got -1."),
    ("serve a --max_texts 0", "--max_texts must be at least 1, got 0."),
    ("serve a --label_names_file names.txt", "--label_names_file needs --label_file."),
    ("explain a --text b --text_pair_column c", "--text_pair_column needs --text_file"),
    ("explain a --text_file b --text_pair c", "--text_pair needs --text"),
    ("explain a --text b --attention 1", "--attention needs --output_dir"),
    ("explain a --text b --seed -1", "--seed must be at least 0, got -1."),
    ("explain a --text b --samples 9", "--samples needs --method shapley or integrated_gradients, got occlusion"),
    ("evaluate a --output_dir b --test_file home=", "--test_file must be FILE or NAME=FILE, such as home=movies.csv"),
    (f"{EVALUATE} a=y.csv", "--test_file has two files named a; name one of them differently, such as a2=y.csv"),
    (f"{EVALUATE} --test_file b=./x.csv", "--test_file has ./x.csv twice"),
    (f"{EVALUATE} --seed -1", "--seed must be at least 0, got -1"),
    (f"{EVALUATE} --bootstrap_samples 0", "--bootstrap_samples must be at least 1, got 0"),
    (f"{EVALUATE} --matched_dir m", "--matched_dir needs --match"),
    (f"{EVALUATE} --label_shares b=0.5", "--label_shares needs --match and --matched_dir"),
    (f"{EVALUATE} --matched_dir m --match b", "--match must be one of a, got b"),
    (f"{EVALUATE} --matched_dir m --match a --label_shares b=x", "--label_shares must be LABEL=SHARE"),
    (f"{EVALUATE} --matched_dir m --match a --label_shares b=0.5 b=0.5", "must have each label once, got b twice"),
    (f"{EVALUATE} --matched_dir ./report --match a", "must be different folders, got ./report twice"),
    ("evaluate a --output_dir b --test_file nowhere.csv", "--test_file nowhere.csv: there is no such file"),
    ("evaluate a --output_dir b --test_file empty.csv", "--test_file empty.csv is empty"),
    ("evaluate a --output_dir b --test_file a=b.csv", "--test_file a=b.csv is empty"),
    # Settings files
    ("pretrain nowhere.yaml", "there is no file nowhere.yaml"),
    ("rank: many", "--rank must be an integer, got 'many'."),
    ("rank: {a: 1}", "--rank must be an integer, got "),
    ("overwrite: perhaps", "--overwrite must be True or False, got 'perhaps'."),
    ("lr_scheduler_kwargs: '{a'", "--lr_scheduler_kwargs must be a JSON object or a file with one, got '{a'"),
    ("lr: 3\nsise: 2", "--lr (did you mean --learning_rate?), --sise"),
    ("- task", "settings.yaml must contain names and values, got list"),
    ("task: [", "settings.yaml cannot be read"),
]


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


@pytest.mark.parametrize(("mistake", "expected"), MISTAKES, ids=[each[:60] for each, _ in MISTAKES])
def test_a_mistake_ends_in_one_line_that_names_it(folder: Path, mistake: str, expected: str) -> None:
    (folder / "notes").mkdir()
    for name, content in (("notes/a.txt", ""), ("empty.csv", ""), ("a=b.csv", ""), ("header.csv", "text,label\n")):
        (folder / name).write_text(content)
    arguments = mistake.split()
    if re.match(r"\w+: |- ", mistake):
        (folder / "settings.yaml").write_text(mistake)
        arguments = ["adapt", "settings.yaml", *ADAPT.split()[2:], "--model", "somewhere"]
    before = contents(folder)
    message = exit_of(*arguments)
    assert isinstance(message, str)
    assert expected in message
    assert len(message.splitlines()) == 1
    assert contents(folder) == before


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


def test_help_and_errors_do_not_import_torch(folder: Path) -> None:
    (folder / "settings.yaml").write_text("corpus: texts\nsise: tiny\n")
    helps = [["--help"], ["adapt", "--task", "qa", "-h"], *([name, "--help"] for name in COMMANDS)]
    # These errors are found while a command runs.
    running = rf"\w+: |- |evaluate|{CALIBRATE}"
    mistakes = [each.split() for each, _ in MISTAKES if not re.match(running, each)]
    mistakes += [["pretrain", "settings.yaml"], ["embed", "settings.yaml"]]
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


def test_hard_coded_names_match_the_libraries() -> None:
    names = {f"--{each.name}" for each in dataclasses.fields(TrainingArguments) if each.init}
    assert names - set(_trainer_options()) == set()


def test_the_guide_lists_every_family_that_can_be_converted() -> None:
    guide = (ROOT / "docs" / "convert.md").read_text()
    table = guide.partition("| Family | `--to` |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| [^|]+ \| `([\w-]+)` \|", table, re.MULTILINE) == list(FAMILIES)


@pytest.mark.parametrize(
    ("missing", "arguments", "expected"),
    [
        ("datasets", ADAPT, "sequence-encoder[adapt]"),
        ("sklearn", ADAPT, "sequence-encoder[adapt]"),
        ("peft", f"{ADAPT} --tuning lora", "--tuning lora needs peft"),
        ("optuna", f"{ADAPT} --search_trials 2", "--search_trials needs optuna"),
        ("sentence_transformers", f"{ADAPT} --task ranking", "--task ranking needs sentence_transformers"),
        ("tensorboard", f"{ADAPT} --report_to tensorboard", "sequence-encoder[train]"),
        ("matplotlib", "pretrain --corpus train.csv", "pip install 'sequence-encoder[train]'"),
        ("tensorboard", "pretrain --corpus train.csv --report_to tensorboard", "--report_to tensorboard needs"),
        ("fastapi", "serve nowhere", "pip install 'sequence-encoder[serve]'"),
    ],
)
def test_a_missing_library_is_reported_with_its_pip_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch, missing: str, arguments: str, expected: str
) -> None:
    (folder / "train.csv").write_text("text,label\na text,1\n")
    monkeypatch.setitem(sys.modules, missing, None)
    message = exit_of(*arguments.split())
    assert isinstance(message, str)
    assert len(message.splitlines()) == 1
    assert [part for part in (expected, missing, "not installed", "pip install") if part not in message] == []
    assert sorted(contents(folder)) == ["train.csv"]


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
