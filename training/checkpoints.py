"""Marks complete checkpoints, finds the one to resume from, and removes incomplete ones.

`Trainer` writes the files of a checkpoint one by one, in several processes. A checkpoint gets a marker once all its
files are written. Only then are older checkpoints removed. Files that a user has added to a checkpoint are kept.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..command_line import UsageError
from ..command_line.quiet import without_warning
from ..saving.code_bundle import BUNDLE_FILES, OLDER_FILES
from .hardware import freed_memory_kept

MARKER = "complete"
# The files that `Trainer` and its callbacks write into a checkpoint.
_WRITTEN = (
    *(MARKER, "trainer_state.json", "training_args.bin", "scheduler.pt", "scaler.pt", "rng_state*.pth"),
    *("optimizer.pt", "optimizer.bin", "optimizer_[0-9]*", "pytorch_model_fsdp*", "global_step[0-9]*", "latest"),
    *("config.json", "generation_config.json", "model.safetensors", "model-*.safetensors", "*.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.*"),
    *("merges.txt", "chat_template.jinja", "adapter_config.json", "adapter_model.safetensors", "README.md"),
    *(*BUNDLE_FILES, *OLDER_FILES, "sequence_encoder_*.py", "tokenization_sequence_encoder.py"),
    *("__pycache__", "_saving-*", "custom_generate", "ema", "best_weights*", "zero_to_fp32.py"),
    *("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"),
    # The modules of sentence-transformers after the encoder.
    *("[1-9]_Pooling", "[1-9]_Dense", "[1-9]_Normalize"),
)


def checkpoints_in(folder: Path) -> list[Path]:
    """Return all checkpoints in a folder, complete or not, in the order of their steps.

    A folder that only contains the user's files is not a checkpoint.
    """
    return sorted((path for path in _named_like_checkpoints(folder) if _is_checkpoint(path)), key=step_of)


def non_checkpoints_in(folder: Path) -> list[Path]:
    """Return the folders that are named like a checkpoint but do not contain one."""
    return sorted(path for path in _named_like_checkpoints(folder) if not _is_checkpoint(path))


def _named_like_checkpoints(folder: Path) -> list[Path]:
    prefix = f"{PREFIX_CHECKPOINT_DIR}-"
    return [path for path in folder.glob(f"{prefix}*") if path.is_dir() and path.name[len(prefix) :].isdigit()]


def _is_checkpoint(folder: Path) -> bool:
    try:
        entries = list(folder.iterdir())
    except FileNotFoundError:  # The run that owns the folder has just removed it.
        return False
    return not entries or any(_is_written(path, _WRITTEN) for path in entries)


def _is_written(path: Path, names: Sequence[str]) -> bool:
    return any(fnmatchcase(path.name, name) for name in names)


def remove_checkpoint(checkpoint: Path) -> None:
    """Remove the files that training wrote into a checkpoint, and the folder if nothing else is in it."""
    remove_matching(checkpoint, _WRITTEN)


def remove_matching(folder: Path, names: Sequence[str], kept: Sequence[str] = ()) -> None:
    """Remove the matching files and folders in a folder, and the folder if it is then empty.

    The names of other files are printed, except those that are `kept`. `names` are patterns, as in `fnmatch`.
    """
    for path in list(folder.iterdir()):
        if _is_written(path, names):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    left = {path.name for path in folder.iterdir()}
    if others := sorted(left.difference(kept)):
        print(f"{folder} is kept, because it contains files that training did not write: {', '.join(others)}.")
    elif not left:
        folder.rmdir()


def checkpoint_at(args: TrainingArguments, state: TrainerState) -> Path:
    """Return the folder in which `Trainer` writes the checkpoint of the current step."""
    return Path(args.output_dir or "") / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"


def step_of(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def last_complete_checkpoint(folder: Path) -> Path | None:
    """Return the latest complete checkpoint in a folder, or None if no checkpoint is complete."""
    return next((path for path in reversed(checkpoints_in(folder)) if (path / MARKER).exists()), None)


def remove_incomplete(folder: Path) -> list[Path]:
    """Remove the incomplete checkpoints in a folder, and return their paths."""
    unfinished = [path for path in checkpoints_in(folder) if not (path / MARKER).exists()]
    for path in unfinished:
        remove_checkpoint(path)
    return unfinished


def rotate_checkpoints(folder: Path, limit: int | None, best: str | None) -> None:
    """Remove the oldest checkpoints in a folder until at most `limit` are left, except the best and the latest one.

    Without a limit, all are kept.
    """
    # The list is empty if somebody has removed the folder.
    older = checkpoints_in(folder)[:-1]
    removable = [path for path in older if best is None or path.name != Path(best).name]
    if limit:
        for path in removable[: max(0, len(older) + 1 - limit)]:
            remove_checkpoint(path)


def train_with_cleanup(trainer: Trainer, checkpoint: str | Path | None) -> None:
    """Train, from a checkpoint if there is one, and leave only complete checkpoints behind if writing one fails.

    Raises:
        UsageError: If a checkpoint could not be written, or if `checkpoint` is damaged.
    """
    folder = Path(trainer.args.output_dir or "")
    try:
        # The arguments of this run apply, and each command checks those that must not change.
        unwanted = without_warning("transformers.trainer_utils", "Warning: The following arguments do not match")
        with unwanted, freed_memory_kept():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except (OSError, SafetensorError, RuntimeError) as error:
        unfinished = remove_incomplete(folder) if trainer.args.should_save else []
        if unfinished:
            last = last_complete_checkpoint(folder)
            raise UsageError(
                f"a checkpoint could not be written ({error}), and its incomplete files were removed. "
                + (f"The last complete checkpoint is {last}. " if last else "There is no complete checkpoint yet. ")
                + "Free some disk space and continue with --resume."
            ) from error
        if checkpoint and (isinstance(error, SafetensorError) or "PytorchStreamReader" in str(error)):
            raise UsageError(
                f"{checkpoint} is damaged ({error}). Remove it, and continue from the previous one with --resume."
            ) from error
        raise


class CompleteCheckpointsCallback(TrainerCallback):
    """A callback that marks complete checkpoints, and only then removes older ones.

    It replaces the `save_total_limit` of `Trainer`, which removes older checkpoints before all processes have written
    the new one. Add it after all other callbacks that write into checkpoints.
    """

    def __init__(self, arguments: TrainingArguments) -> None:
        self.limit = arguments.save_total_limit
        arguments.save_total_limit = None

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Wait for all processes, mark the checkpoint, and remove older ones."""
        if args.world_size > 1:
            torch.distributed.barrier()
        if not args.should_save:
            return
        checkpoint = checkpoint_at(args, state)
        with open(checkpoint / MARKER, "wb") as marker:
            os.fsync(marker.fileno())
        rotate_checkpoints(checkpoint.parent, self.limit, state.best_model_checkpoint)


class CurrentSettingsCallback(TrainerCallback):
    """A callback that applies the current learning rate and intervals to a resumed training run.

    `Trainer` itself takes both from the checkpoint.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Rescale the learning rates of the checkpoint, and replace its logging, evaluation and saving intervals."""
        state.compute_steps(args, state.max_steps)
        groups, scheduler = kwargs["optimizer"].param_groups, kwargs["lr_scheduler"]
        # A schedule that follows a metric has no base rate.
        if not hasattr(scheduler, "base_lrs"):
            return
        for group in groups:
            if group["initial_lr"] != args.learning_rate:
                group["lr"] *= args.learning_rate / group["initial_lr"]
                group["initial_lr"] = args.learning_rate
        scheduler.base_lrs = [group["initial_lr"] for group in groups]
        scheduler._last_lr = [group["lr"] for group in groups]


class RestoreRandomStateCallback(TrainerCallback):
    """A callback that restores the random state of a checkpoint at the start of the first step.

    For a stream, `Trainer` restores it too early: creating the iterator then draws a random number.
    """

    def __init__(self, checkpoint: Path, trainer: Trainer) -> None:
        self.checkpoint: Path | None = checkpoint
        self.trainer = trainer

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Restore the random state at the first step."""
        if self.checkpoint is not None:
            self.trainer._load_rng_state(str(self.checkpoint))
            self.checkpoint = None
