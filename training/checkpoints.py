"""Checkpoints that are whole: which one to go on from, and what an interruption left behind.

`Trainer` writes the files of a checkpoint one by one, in several processes. One is whole when all of them are there,
and only then gets a marker; older ones are removed after that and not before. Files that a user put beside them stay.
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
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..command_line import UsageError
from ..command_line.console import without_warning
from ..saving.code_bundle import BUNDLE_FILES

MARKER = "complete"
# What `Trainer` and its callbacks write into a checkpoint.
_WRITTEN = (
    *(MARKER, "trainer_state.json", "training_args.bin", "scheduler.pt", "scaler.pt", "rng_state*.pth"),
    *("optimizer.pt", "optimizer.bin", "optimizer_[0-9]*", "pytorch_model_fsdp*", "global_step[0-9]*", "latest"),
    *("config.json", "generation_config.json", "model.safetensors", "model-*.safetensors", "*.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.*"),
    *("merges.txt", "chat_template.jinja", "adapter_config.json", "adapter_model.safetensors", "README.md"),
    *(*BUNDLE_FILES, "sequence_encoder_*.py", "tokenization_sequence_encoder.py"),
    *("__pycache__", "_saving-*", "ema", "best_weights*", "zero_to_fp32.py"),
    *("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json", "1_Pooling"),
)


def checkpoints_in(folder: Path) -> list[Path]:
    """All checkpoints in a folder, whole or not, the latest last. A folder with only a user's files is none."""
    return sorted((path for path in _named_like_checkpoints(folder) if _is_checkpoint(path)), key=step_of)


def others_in(folder: Path) -> list[Path]:
    """What looks like a checkpoint by its name alone."""
    return sorted(path for path in _named_like_checkpoints(folder) if not _is_checkpoint(path))


def _named_like_checkpoints(folder: Path) -> list[Path]:
    prefix = f"{PREFIX_CHECKPOINT_DIR}-"
    return [path for path in folder.glob(f"{prefix}*") if path.is_dir() and path.name[len(prefix) :].isdigit()]


def _is_checkpoint(folder: Path) -> bool:
    entries = list(folder.iterdir())
    return not entries or any(_is_written(path, _WRITTEN) for path in entries)


def _is_written(path: Path, names: Sequence[str]) -> bool:
    return any(fnmatchcase(path.name, name) for name in names)


def remove_checkpoint(checkpoint: Path) -> None:
    """Remove what a training wrote into a checkpoint, and the folder unless something else is in it."""
    remove_written(checkpoint, _WRITTEN)


def remove_written(folder: Path, names: Sequence[str], kept: Sequence[str] = ()) -> None:
    """Remove the files and folders in a folder whose names match, and say what else is there.

    Args:
        folder: it goes as well if it is empty then.
        names: patterns, as in `fnmatch`.
        kept: names of files that stay without a word.
    """
    for path in list(folder.iterdir()):
        if _is_written(path, names):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    left = {path.name for path in folder.iterdir()}
    if others := sorted(left.difference(kept)):
        print(f"{folder} stays, with what no training wrote: {', '.join(others)}.")
    elif not left:
        folder.rmdir()


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
        remove_checkpoint(path)
    return unfinished


def remove_older(folder: Path, limit: int | None, best: str | None) -> None:
    """Remove the oldest checkpoints in a folder until as many are left as the limit says.

    Args:
        folder: of the training.
        limit: how many stay; None or 0 for all of them. The latest always stays.
        best: the one that stays whatever its age, if there is one.
    """
    # None is left where someone removed the folder.
    older = checkpoints_in(folder)[:-1]
    removable = [path for path in older if best is None or path.name != Path(best).name]
    if limit:
        for path in removable[: max(0, len(older) + 1 - limit)]:
            remove_checkpoint(path)


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
        # What is given now counts, and each recipe checks what may not change.
        with without_warning("transformers.trainer_utils", "Warning: The following arguments do not match"):
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
        remove_older(checkpoint.parent, self.limit, state.best_model_checkpoint)


class SettingsOfNow(TrainerCallback):
    """Lets a resumed training follow the learning rate and the intervals that it is given now.

    `Trainer` takes both from the checkpoint.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Scale the rates that the checkpoint brought, and replace its intervals of logs, evaluations and saves."""
        state.compute_steps(args, state.max_steps)
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
