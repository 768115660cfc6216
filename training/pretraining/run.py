"""The arguments of one run of `sequence-encoder pretrain`, including the arguments of `Trainer`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import SchedulerType, TrainingArguments

from ...command_line import UsageError
from ...command_line.options import check_least
from ...data.corpus import CorpusArguments
from ...inference.corpora.arguments import arguments_of
from ..arguments import check_fixed, check_schedule, check_training_arguments, settle_device
from .arguments import PRETRAIN, SCRATCH, ModelArguments, PretrainingOptions, with_saved_arguments
from .in_memory import TEXTS, InMemory
from .objective_arguments import Objectives


@dataclass
class PretrainingArguments(PretrainingOptions, TrainingArguments):  # type: ignore[misc]
    """`TrainingArguments` with other defaults, and the options of `PretrainingOptions`.

    Raises:
        UsageError: If a value is not allowed.
    """

    def __post_init__(self) -> None:
        check_least(self, seconds=1)
        check_fixed(
            self,
            remove_unused_columns=False,
            train_sampling_strategy="sequential",
            label_smoothing_factor=0.0,
            resume_from_checkpoint=None,
            save_only_model=False,
        )
        if not 0 < self.lr_decay_share <= 1:
            raise UsageError(f"--lr_decay_share must be above 0 and at most 1, got {self.lr_decay_share}.")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise UsageError(f"--ema_decay must be between 0 and 1, got {self.ema_decay}.")
        if not 0 <= self.start_share < 1:
            raise UsageError(f"--start_share must be at least 0 and below 1, got {self.start_share}.")
        for name in ("ema_decay", "start_share"):
            if getattr(self, name) and self.load_best_model_at_end:
                raise UsageError(f"--{name} and --load_best_model_at_end both replace the final weights; set only one.")
        if self.resume and self.overwrite:
            raise UsageError("--resume continues a run and --overwrite starts over; set only one.")
        check_training_arguments(self)
        settle_device(self)
        super().__post_init__()
        # `complete_schedule` sets the real value once the number of steps is known.
        trapezoid = self.lr_scheduler_type == SchedulerType.WARMUP_STABLE_DECAY
        check_schedule(self, **({"num_decay_steps": 1} if trapezoid else {}))


@dataclass
class Pretraining:
    """The arguments of one run, the command line that would give them, and what the run has in memory instead."""

    model: ModelArguments
    corpus: CorpusArguments
    objectives: Objectives
    args: PretrainingArguments
    arguments: list[str] = field(default_factory=list)
    in_memory: InMemory = field(default_factory=InMemory)

    @property
    def output(self) -> Path:
        """The output folder."""
        return Path(self.args.output_dir or "")

    @property
    def origin(self) -> str | None:
        """The folder or the Hub id of the model to continue, if there is one."""
        model = self.in_memory.model
        return self.model.model if model is None else model.name_or_path or None

    @property
    def scratch(self) -> Path:
        """The folder for what an interrupted run needs to resume."""
        return self.output / SCRATCH


_KINDS = (ModelArguments, CorpusArguments, Objectives, PretrainingArguments)


def parse(arguments: list[str]) -> Pretraining:
    """Parse the command line with `Command.read`. With `--resume`, the interrupted run completes it.

    Raises:
        UsageError: If a name or a value is not allowed.
    """
    arguments = with_saved_arguments(PRETRAIN.as_options(arguments))
    model, corpus, objectives, args = PRETRAIN.read(arguments, _KINDS)
    return Pretraining(model, corpus, objectives, args, arguments)


def run_of(options: Mapping[str, Any]) -> Pretraining:
    """Return the run for options that were given in Python, with the defaults of the command.

    Raises:
        MissingLibraryError: If a library is missing.
        UsageError: If a name or a value is not allowed.
    """
    given = {name: value for name, value in options.items() if value is not None}
    in_memory = InMemory.taken_from(given)
    given = {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in given.items()}
    model, corpus, objectives, args = arguments_of(PRETRAIN, {**PRETRAIN.defaults(given), **given}, _KINDS)
    PRETRAIN.check(model, corpus, objectives, args)
    if in_memory.texts is not None:
        corpus.corpus = TEXTS
    return Pretraining(model, corpus, objectives, args, _as_words(given), in_memory)


def _as_words(options: Mapping[str, Any]) -> list[str]:
    """Return the command line with these options, which a command that resumes the run reads."""
    words = []
    for name, value in options.items():
        values = value if isinstance(value, list | tuple) else [json.dumps(value) if isinstance(value, dict) else value]
        words += [f"--{name}", *map(str, values)]
    return words
