"""Checkpoints that are whole: which one to go on from, and what an interruption left behind.

`Trainer` writes the files of a checkpoint one by one, in several processes. One is whole when all of them are there,
and only then gets a marker; older ones are removed after that and not before.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from . import UsageError

MARKER = "complete"


def checkpoints_in(folder: Path) -> list[Path]:
    """All checkpoints in a folder, whole or not, the latest last."""
    prefix = f"{PREFIX_CHECKPOINT_DIR}-"
    found = [path for path in folder.glob(f"{prefix}*") if path.is_dir() and path.name[len(prefix) :].isdigit()]
    return sorted(found, key=step_of)


def checkpoint_at(args: TrainingArguments, state: TrainerState) -> Path:
    """Where `Trainer` writes the checkpoint of the step that it is at."""
    return Path(args.output_dir or "") / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The latest checkpoint in a folder that was finished."""
    return next((path for path in reversed(checkpoints_in(folder)) if (path / MARKER).exists()), None)


def remove_unfinished(folder: Path) -> list[Path]:
    """Removes the checkpoints in a folder that were not finished, and returns which."""
    unfinished = [path for path in checkpoints_in(folder) if not (path / MARKER).exists()]
    for path in unfinished:
        shutil.rmtree(path)
    return unfinished


def train_whole(trainer: Trainer, checkpoint: str | Path | None) -> None:
    """Trains, and leaves whole checkpoints behind whatever happens.

    Args:
        trainer: with `WholeCheckpoints` among its callbacks.
        checkpoint: to go on from.

    Raises:
        UsageError: if a checkpoint could not be written, or the one to go on from not be read.
    """
    folder = Path(trainer.args.output_dir or "")
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except (OSError, SafetensorError, RuntimeError) as error:
        unfinished = remove_unfinished(folder) if trainer.args.should_save else []
        if unfinished:
            last = last_whole_checkpoint(folder)
            raise UsageError(
                f"a checkpoint could not be written ({error}); what there was of it is removed. "
                + (f"The last whole one is {last}. " if last else "There is none yet. ")
                + "Make room on the disk, and go on with --resume."
            ) from error
        if checkpoint and (isinstance(error, SafetensorError) or "PytorchStreamReader" in str(error)):
            raise UsageError(
                f"{checkpoint} is damaged ({error}); remove it, and go on from the one before with --resume."
            ) from error
        raise


class WholeCheckpoints(TrainerCallback):
    """Marks checkpoints when they are whole, and only then removes older ones.

    It takes `save_total_limit` away from the `Trainer`, which removes older checkpoints before all processes have
    written theirs. Add it after what else writes into checkpoints.

    Args:
        arguments: those of the `Trainer`.
    """

    def __init__(self, arguments: TrainingArguments) -> None:
        self.limit = arguments.save_total_limit
        arguments.save_total_limit = None

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Waits for all processes, and marks the checkpoint."""
        if args.world_size > 1:
            torch.distributed.barrier()
        if not args.should_save:
            return
        checkpoint = checkpoint_at(args, state)
        with open(checkpoint / MARKER, "wb") as marker:
            os.fsync(marker.fileno())
        rotate_checkpoints(str(checkpoint.parent), self.limit, state.best_model_checkpoint)


class LearningRateOfNow(TrainerCallback):
    """Lets a training that goes on have the learning rate that it is given now, and not that of its checkpoint."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Scales the rates that the checkpoint brought."""
        groups, scheduler = kwargs["optimizer"].param_groups, kwargs["lr_scheduler"]
        # A schedule that follows a metric keeps no rate to start from.
        if not hasattr(scheduler, "base_lrs"):
            return
        for group in groups:
            if group["initial_lr"] != args.learning_rate:
                group["lr"] *= args.learning_rate / group["initial_lr"]
                group["initial_lr"] = args.learning_rate
        scheduler.base_lrs = [group["initial_lr"] for group in groups]
        scheduler._last_lr = [group["lr"] for group in groups]


class RandomStateOfCheckpoint(TrainerCallback):
    """Brings the random state of a checkpoint back when its first step begins.

    Of a stream, `Trainer` does so before it makes an iterator, and making one draws a number.

    Args:
        checkpoint: that training goes on from.
        trainer: of the training.
    """

    def __init__(self, checkpoint: Path, trainer: Trainer) -> None:
        self.checkpoint: Path | None = checkpoint
        self.trainer = trainer

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Does so once."""
        if self.checkpoint is not None:
            self.trainer._load_rng_state(str(self.checkpoint))
            self.checkpoint = None
