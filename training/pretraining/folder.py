"""The output folder of `sequence-encoder pretrain`: what it may contain at the start, and what a run keeps in it.

checkpoint-N/     the training after N steps
_pretraining/     what an interrupted run needs to resume (`Trainer` pushes nothing that begins with an underscore)
  lock            held while a run uses the folder; the system releases it when the process ends
  settings.json   what must not change when the run is resumed
  arguments.json  the command line, which also applies when the run is resumed
  windows.json    the number of windows and tokens, and a digest, which must not change when the run is resumed
  budget.json     the number of steps that `--seconds` leaves time for
  tokenizer/      and other results of the preparation
trainer_state.json  written after the model, and so marks a finished run
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from ...command_line import UsageError
from ...command_line.counts import counted
from ...data.corpus_files import check_no_overlap
from ...data.packs import PackedWindows
from ...saving.staged_files import make_folder
from ...saving.whole_folders import write_atomically
from ..checkpoints import (
    checkpoints_in,
    last_complete_checkpoint,
    non_checkpoints_in,
    remove_checkpoint,
    remove_incomplete,
    remove_matching,
    step_of,
)
from ..interruptions import LOCK, acquire_lock, check_unchanged
from .arguments import SAVED_ARGUMENTS, serialize_arguments
from .run import Pretraining
from .trainer import BUDGET, TRIAL, packs_per_step

_SETTINGS, _WINDOWS = "settings.json", "windows.json"
_PREPARED = (
    _SETTINGS,
    _WINDOWS,
    SAVED_ARGUMENTS,
    "tokenizer",
    "tokenizer.part",
    "encoder",
    "undivided",
    "stream.jsonl",
    BUDGET,
    TRIAL,
    "documentation*.jsonl",
)


def check_folder(run: Pretraining) -> None:
    """Check that the run may use the output folder, before it writes anything.

    Raises:
        FileExistsError: If the folder contains a model or checkpoints, and neither `resume` nor `overwrite` is set.
        UsageError: If the folder overlaps with the corpus, contains symbolic links, cannot be resumed, or holds the
            model or tokenizer that the run starts from.
    """
    output, scratch, args = run.output, run.scratch, run.args
    if run.in_memory.texts is None:
        check_no_overlap(output, run.corpus.corpus)
    if output.exists() and not output.is_dir():
        raise UsageError(f"--output_dir {output} is a file; choose a folder.")
    try:
        make_folder(output)
    except OSError as error:
        raise UsageError(f"--output_dir {output} cannot be written: {error.strerror or error}.") from error
    for path in (scratch, *output.glob("checkpoint-*")):
        if path.is_symlink():
            raise UsageError(
                f"{path} is a symbolic link, but a run may delete it. Move its target to {output}, or make the whole "
                "--output_dir a link."
            )
    file = scratch / _SETTINGS
    if args.resume and file.exists():
        _check_unchanged(run, file)
        return
    if not (checkpoints := checkpoints_in(output)) and not (output / "config.json").exists():
        return
    if args.resume:
        raise UsageError(f"--resume needs {file}, which does not exist; start over with --overwrite.")
    if not args.overwrite:
        if steps := finished_steps(run):
            raise FileExistsError(
                f"{output} contains a run that finished after {counted(steps, 'step')}; continue it with --resume and "
                "a larger --max_steps or --num_train_epochs, or start over with --overwrite."
            )
        raise FileExistsError(
            f"{output} contains a model or checkpoints; continue with --resume, or start over with --overwrite."
        )
    if checkpoints and not file.exists():
        raise UsageError(f"pretrain did not write {checkpoints[0]}; move it away, or choose another --output_dir.")
    for source in (run.model.model, run.model.tokenizer):
        if source and any(Path(source).resolve().is_relative_to(path.resolve()) for path in (*checkpoints, scratch)):
            raise UsageError(f"{source} would be deleted; choose another --output_dir.")


def _check_unchanged(run: Pretraining, file: Path) -> None:
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{file} is damaged ({error}); start over with --overwrite.") from error
    parts = (run.model, run.corpus, run.objectives, run.args)
    check_unchanged(before, settings_of(run), parts, "with the same texts, model, objectives and optimizer")


def settings_of(run: Pretraining) -> dict[str, Any]:
    """Return what must not change when a run is resumed."""
    settings: dict[str, Any] = {}
    for part in (run.model, run.corpus, run.objectives):
        settings |= dataclasses.asdict(part)
    settings.pop("num_proc")
    args = run.args
    # The optimizer state in a checkpoint restores these settings, but not the learning rate.
    optimizer = ("muon", "optim", "optim_args", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon")
    settings |= {name: getattr(args, name) for name in ("seed", "ema_decay", "start_share", *optimizer)}
    # The same types as after reading the file.
    return json.loads(json.dumps(settings | {"packs a step": packs_per_step(args)}))


@contextmanager
def run_lock(run: Pretraining) -> Iterator[None]:
    """Lock the output folder against other runs.

    Raises:
        FileExistsError: If another run uses the folder.
    """
    if not run.args.should_save:
        yield
        return
    lock = acquire_lock(run.scratch, run.output)
    try:
        yield
    finally:
        lock.release()


def prepare_folder(run: Pretraining) -> None:
    """Prepare the output folder for a new or a resumed run."""
    output, scratch = run.output, run.scratch
    if not run.args.should_save:
        return
    check_folder(run)
    if run.args.resume and (scratch / _SETTINGS).exists():
        for path in remove_incomplete(output):
            print(f"Removed the incomplete {path}.")
        _keep_arguments(run)
        return
    if run.args.resume:
        print(f"--resume found no interrupted run in {output}; starting a new one.")
    for path in checkpoints_in(output):
        remove_checkpoint(path)
    for path in non_checkpoints_in(output):
        print(f"Kept {path}, which pretrain did not write.")
    scratch.mkdir(parents=True, exist_ok=True)
    # Removing the lock file would let another run in.
    remove_matching(scratch, _PREPARED, kept=(LOCK,))
    # This file marks a finished run.
    (output / TRAINER_STATE_NAME).unlink(missing_ok=True)
    scratch.mkdir(exist_ok=True)
    write_atomically(scratch / _SETTINGS, [json.dumps(settings_of(run), indent=1)])
    _keep_arguments(run)


def check_windows(run: Pretraining, train: PackedWindows) -> None:
    """Check by the numbers of tokens that a resumed run has the same texts.

    Raises:
        UsageError: If the texts have changed.
    """
    file = run.scratch / _WINDOWS
    found = {"windows": len(train.windows), "tokens": train.tokens, "digest": train.digest}
    if file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        if before != found:
            raise UsageError(
                f"--resume continues with the same texts, but --corpus {run.corpus.corpus} has changed: it had "
                f"{before['windows']:,} windows of {before['tokens']:,} tokens, and now has {found['windows']:,} of "
                f"{found['tokens']:,}{'' if before['tokens'] != found['tokens'] else ', with different lengths'}."
            )
    elif run.args.should_save:
        write_atomically(file, [json.dumps(found)])


def _keep_arguments(run: Pretraining) -> None:
    write_atomically(run.scratch / SAVED_ARGUMENTS, [serialize_arguments(run.arguments)])


def finished_steps(run: Pretraining) -> int:
    """Return the number of steps of the finished run in the output folder, or 0 without a finished run."""
    file = run.output / TRAINER_STATE_NAME
    if not file.exists() or not (run.output / "config.json").exists():
        return 0
    return TrainerState.load_from_json(str(file)).global_step


def progress_of(run: Pretraining) -> str:
    """Describe what an interrupted run has saved, and how to resume it."""
    last = last_complete_checkpoint(run.output)
    if last is None:
        return "interrupted before the first checkpoint; nothing was saved."
    return (
        f"interrupted; {last} contains the first {step_of(last)} steps. To continue, run the same command with "
        "--resume."
    )
