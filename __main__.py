"""The command line: `sequence-encoder COMMAND …` or `python -m sequence_encoder COMMAND …`.

Each command first parses its arguments, and imports torch only to run.
"""

from __future__ import annotations

import difflib
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from .command_line import UsageError
from .command_line.clock import running_since
from .command_line.full_disk import is_disk_full
from .command_line.help import help_of
from .command_line.parser import Command
from .command_line.progress import lines_in_logs
from .command_line.quiet import quiet_libraries
from .saving.version import __version__

# The options of each command, and the function that runs it. Both are imported when they are needed. `--help` lists the
# most used commands first.
COMMANDS: dict[str, tuple[str, str]] = {
    "quickstart": ("training.quickstart.arguments:QUICKSTART", "training.quickstart.quickstart:quickstart"),
    "convert": ("conversion.arguments:CONVERT", "conversion.command:convert_command"),
    "adapt": ("training.adaptation.arguments:ADAPT", "training.adaptation.adapt:run_command"),
    "pretrain": ("training.pretraining.arguments:PRETRAIN", "training.pretraining.pretrain:run_command"),
    "distill": ("training.distillation.arguments:DISTILL", "training.distillation.distill:run_command"),
    "embed": ("inference.corpora.arguments:EMBED", "inference.corpora.commands:embed"),
    "predict": ("inference.corpora.arguments:PREDICT", "inference.corpora.commands:predict"),
    "extract": ("inference.corpora.arguments:EXTRACT", "inference.corpora.commands:extract"),
    "evaluate": ("evaluation.arguments:EVALUATE", "evaluation.evaluate_command:evaluate_checkpoint"),
    "serve": ("serving.arguments:SERVE", "serving.command:serve"),
    "calibrate": ("evaluation.calibration.arguments:CALIBRATE", "evaluation.calibration.command:calibrate_checkpoint"),
    "explain": ("evaluation.explanation.arguments:EXPLAIN", "search.explain_command:explain"),
    "index": ("search.arguments:INDEX", "search.indexing:index"),
    "search": ("search.arguments:SEARCH", "search.printing:search"),
    "choose": ("training.labelling.arguments:CHOOSE", "training.labelling.choosing:choose"),
    "export": ("inference.runtimes.arguments:EXPORT", "inference.runtimes.command:export"),
    "quantize": ("inference.quantization.arguments:QUANTIZE", "inference.quantization.command:quantize_checkpoint"),
    "inspect": ("conversion.arguments:INSPECT", "conversion.arguments:inspect_command"),
}

# Number of commands that `--help` lists first.
_MOST_USED = 10


def find_command(name: str) -> Command:
    """Return the options of a command, without importing torch."""
    command: Command = _load(COMMANDS[name][0])
    return command


def main(arguments: list[str] | None = None, before_run: Callable[[], object] = lambda: None) -> None:
    """Run the command that the first argument names. Each command has its own `--help`.

    Args:
        arguments: The arguments. Defaults to those of the process.
        before_run: A function to call once the arguments are parsed, unless the command needs no models.
    """
    started = time.perf_counter()
    try:
        _dispatch(started, (sys.argv[1:] if arguments is None else arguments) or [""], before_run)
        sys.stdout.flush()
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        sys.exit(1)


def _dispatch(started: float, arguments: list[str], before_run: Callable[[], object]) -> None:
    name, *arguments = arguments
    if name in ("-h", "--help", "--version"):
        print(__version__ if name == "--version" else _help(), flush=True)
        sys.exit(0)
    if name not in COMMANDS:
        near = [f" (did you mean {each}?)" for each in difflib.get_close_matches(name, COMMANDS, n=1)]
        problem = f"there is no command {name!r}{''.join(near)}" if name else "COMMAND must be given"
        sys.exit(f"sequence-encoder: {problem}; the commands are {', '.join(COMMANDS)}. See sequence-encoder --help.")
    try:
        with running_since(started):
            _run(name, arguments, before_run)
    except UsageError as error:
        sys.exit(f"sequence-encoder {name}: {error}")
    except KeyboardInterrupt as interruption:
        print(f"\nsequence-encoder {name}: {str(interruption) or 'Interrupted.'}", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if is_disk_full(error):
            reason = str(error).partition("\n")[0]
            advice = "Free some space and run the same command again."
            sys.exit(f"sequence-encoder {name}: The disk is full ({reason}). {advice}")
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            sys.exit(f"sequence-encoder {name}: {error}")
        raise


def _nobody_reads() -> bool:
    """Return whether what read the standard output, such as `head`, has ended. If so, drop all further output.

    Otherwise, Python would try to write it at exit, and print a traceback.
    """
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _run(name: str, arguments: list[str], before_run: Callable[[], object]) -> None:
    command = find_command(name)
    if {"-h", "--help"}.intersection(arguments):
        print(help_of(command, arguments), end="", flush=True)
        sys.exit(0)
    parsed = command.parse(arguments)
    if not command.needs_models(*parsed):
        _call(name, *parsed)
        return
    before_run()
    with quiet_libraries(dataset_bars=name == "pretrain"), lines_in_logs():
        if command.with_trainer:
            # `Trainer` and its libraries also raise `ValueError` for what no user can mend, so it keeps its traceback.
            _load(COMMANDS[name][1])(arguments)
        else:
            _call(name, *parsed)


def _call(name: str, *parsed: Any) -> None:
    try:
        _load(COMMANDS[name][1])(*parsed)
    except ValueError as error:
        raise UsageError(error) from error


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(f".{module}", __package__), name)


def _help() -> str:
    summaries = [f"  {name:<12}{find_command(name).summary.splitlines()[0]}" for name in COMMANDS]
    return "\n".join(
        [
            "usage: sequence-encoder COMMAND ...",
            "\ncommands:",
            *summaries[:_MOST_USED],
            "\nmore:",
            *summaries[_MOST_USED:],
            "\nsequence-encoder COMMAND --help lists its options; sequence-encoder --version prints the version.",
        ]
    )


if __name__ == "__main__":
    main()
