"""The output folder of `sequence-encoder pretrain`: what it may hold at the start, and what a run keeps in it.

checkpoint-N/     the training after N steps
_pretraining/     what an interrupted run needs to be resumed (`Trainer` pushes nothing that begins with an underscore)
  lock            held while a run uses the folder; the system releases it when the process ends
  settings.json   what must not change when the run is resumed
  arguments.json  what was given on the command line, and counts for a run that resumes it
  windows.json    how many windows and tokens the texts are, and a digest; the same when the run is resumed
  tokenizer/      and other parts of the preparation
trainer_state.json  written after the model: the run is finished
"""

from __future__ import annotations

import dataclasses
import glob
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from ...command_line import UsageError
from ...data.corpus import DOCUMENTATION, find_files
from ...data.packs import PackedWindows
from ...saving.staged_files import make_folder
from ...saving.whole_folders import write_whole
from ..checkpoints import (
    checkpoints_in,
    last_whole_checkpoint,
    others_in,
    remove_checkpoint,
    remove_unfinished,
    remove_written,
    step_of,
)
from .resumed_arguments import FILE as ARGUMENTS
from .resumed_arguments import to_keep
from .run import Pretraining
from .trainer import packs_per_step

_LOCK, _SETTINGS, _WINDOWS = "lock", "settings.json", "windows.json"
_PREPARED = (
    _SETTINGS,
    _WINDOWS,
    ARGUMENTS,
    "tokenizer",
    "tokenizer.part",
    "encoder",
    "undivided",
    "stream.jsonl",
    "documentation*.jsonl",
)


def check_folder(run: Pretraining) -> None:
    """Check that the output folder can take the run, before anything is written.

    Raises:
        FileExistsError: if it holds a model or checkpoints, and the run has neither `resume` nor `overwrite`.
        UsageError: if it overlaps with the corpus, has symbolic links in it, cannot be resumed, or holds what the run
            starts from.
    """
    output, scratch, args = run.output, run.scratch, run.args
    _check_apart(output, run.corpus.corpus)
    if output.exists() and not output.is_dir():
        raise UsageError(f"--output_dir {output} is a file; choose a folder.")
    try:
        make_folder(output)
    except OSError as error:
        raise UsageError(f"--output_dir {output} cannot be written: {error.strerror or error}.") from error
    for path in (scratch, *output.glob("checkpoint-*")):
        if path.is_symlink():
            raise UsageError(
                f"{path} is a symbolic link, and a run removes what is there. Move the folder itself to {output}, or "
                "let --output_dir name a link to all of it."
            )
    file = scratch / _SETTINGS
    if args.resume and file.exists():
        _check_unchanged(run, file)
        return
    if not (checkpoints := checkpoints_in(output)) and not (output / "config.json").exists():
        return
    if args.resume:
        raise UsageError(f"--resume needs {file}, which is not there; start anew with --overwrite.")
    if not args.overwrite:
        raise FileExistsError(
            f"{output} holds a model or checkpoints; go on with --resume, or start anew with --overwrite."
        )
    if checkpoints and not file.exists():
        raise UsageError(f"No run of pretrain wrote {checkpoints[0]}; move it away, or choose another --output_dir.")
    for name, source in (("from", run.model.from_checkpoint), ("tokenizer", run.model.tokenizer)):
        if source and any(Path(source).resolve().is_relative_to(path.resolve()) for path in (*checkpoints, scratch)):
            raise UsageError(f"--{name} {source} would be removed; choose another --output_dir.")


def _check_apart(output: Path, corpus: str) -> None:
    """Check that the files of the output do not become texts, and that no text lies among them."""
    found = None if corpus == DOCUMENTATION else find_files(corpus, "corpus")
    if found is None:
        return
    resolved, source = output.resolve(), Path(corpus)
    inside = False
    if source.is_dir():
        inside = resolved.is_relative_to(source.resolve())
    elif glob.has_magic(corpus) and not source.exists():
        fixed = next(parent for parent in source.parents if not glob.has_magic(str(parent))).resolve()
        if resolved.is_relative_to(fixed):
            levels = source.parts[len(source.parts) - _pattern_levels(source) :]
            inside = "**" in levels or len(levels) > len(resolved.relative_to(fixed).parts)
    if inside or any(file.resolve().is_relative_to(resolved) for file in found[1]):
        raise UsageError(
            f"--output_dir {output} and --corpus {corpus} overlap, so that files of the run would be taken for texts, "
            "or texts be among them; choose another --output_dir."
        )


def _pattern_levels(pattern: Path) -> int:
    """How many parts of a pattern there are from the first with a wildcard on."""
    parts = pattern.parts
    return len(parts) - next(place for place, part in enumerate(parts) if glob.has_magic(part))


def _check_unchanged(run: Pretraining, file: Path) -> None:
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{file} is damaged ({error}); start anew with --overwrite.") from error
    settings = settings_of(run)
    changed = [name for name in settings if before.get(name) != settings[name]]
    if changed:
        told = ", ".join(f"{name} (was {before.get(name)!r}, is {settings[name]!r})" for name in changed)
        raise UsageError(
            f"--resume goes on with the same texts, model, objectives and optimizer, and these differ: {told}."
        )


def settings_of(run: Pretraining) -> dict[str, Any]:
    """What must not change when a run goes on."""
    settings: dict[str, Any] = {}
    for part in (run.model, run.corpus, run.objectives):
        settings |= dataclasses.asdict(part)
    settings.pop("num_proc")
    args = run.args
    # The state of the optimizer in a checkpoint brings its own settings back, but for the learning rate.
    optimizer = ("muon", "optim", "optim_args", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon")
    settings |= {name: getattr(args, name) for name in ("seed", "ema_decay", *optimizer)}
    # As they are read again.
    return json.loads(json.dumps(settings | {"packs a step": packs_per_step(args)}))


@contextmanager
def sole_run(run: Pretraining) -> Iterator[None]:
    """Keep other runs out of the output folder.

    Raises:
        FileExistsError: if another run is there.
    """
    lock: Any = nullcontext()
    if run.args.should_save:
        run.scratch.mkdir(parents=True, exist_ok=True)
        lock = FileLock(run.scratch / _LOCK, timeout=0)
    try:
        lock.__enter__()
    except Timeout as error:
        raise FileExistsError(f"Another run writes into {run.output}; choose another --output_dir.") from error
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def prepare_folder(run: Pretraining) -> None:
    """Make the output folder ready for a new run, or for resuming one."""
    output, scratch = run.output, run.scratch
    if not run.args.should_save:
        return
    check_folder(run)
    if run.args.resume and (scratch / _SETTINGS).exists():
        for path in remove_unfinished(output):
            print(f"Removed {path}, which was not finished.")
        _keep_arguments(run)
        return
    if run.args.resume:
        print(f"--resume finds no interrupted run in {output}; a new one starts.")
    for path in checkpoints_in(output):
        remove_checkpoint(path)
    for path in others_in(output):
        print(f"{path} stays: no run of pretrain wrote it.")
    scratch.mkdir(parents=True, exist_ok=True)
    # A lock that is removed keeps nobody out.
    remove_written(scratch, _PREPARED, kept=(_LOCK,))
    # Until the run is finished.
    (output / TRAINER_STATE_NAME).unlink(missing_ok=True)
    scratch.mkdir(exist_ok=True)
    write_whole(scratch / _SETTINGS, [json.dumps(settings_of(run), indent=1)])
    _keep_arguments(run)


def check_windows(run: Pretraining, train: PackedWindows) -> None:
    """Check that the texts are those that the run began with; their lengths in tokens tell.

    Raises:
        UsageError: if they are not.
    """
    file = run.scratch / _WINDOWS
    found = {"windows": len(train.windows), "tokens": train.tokens, "digest": train.digest}
    if file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        if before != found:
            raise UsageError(
                f"--resume goes on with the same texts, and --corpus {run.corpus.corpus} has changed: it was "
                f"{before['windows']:,} windows of {before['tokens']:,} tokens, and is {found['windows']:,} of "
                f"{found['tokens']:,}{'' if before['tokens'] != found['tokens'] else ', of other lengths'}."
            )
    elif run.args.should_save:
        write_whole(file, [json.dumps(found)])


def _keep_arguments(run: Pretraining) -> None:
    write_whole(run.scratch / ARGUMENTS, [to_keep(run.arguments)])


def finished_steps(run: Pretraining) -> int:
    """How many steps the finished run in the output folder has taken; 0 if there is none."""
    file = run.output / TRAINER_STATE_NAME
    if not file.exists() or not (run.output / "config.json").exists():
        return 0
    return TrainerState.load_from_json(str(file)).global_step


def progress_of(run: Pretraining) -> str:
    """What an interrupted run leaves, and how to go on."""
    last = last_whole_checkpoint(run.output)
    if last is None:
        return "interrupted before the first checkpoint; nothing was saved."
    return (
        f"interrupted; {last} holds the first {step_of(last)} steps. To continue, run the same command with --resume."
    )
