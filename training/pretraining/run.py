"""One run of `sequence-encoder pretrain`: everything that was asked for, with the arguments of `Trainer`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from transformers import SchedulerType, TrainingArguments

from ...command_line import UsageError
from ...data.corpus import CorpusArguments
from ..arguments import check_fixed, check_schedule, check_training_arguments, settle_device
from .arguments import COMMAND_LINE, SCRATCH, ModelArguments, PretrainingOptions
from .objective_arguments import Objectives
from .resumed_arguments import with_earlier_ones


@dataclass
class PretrainingArguments(PretrainingOptions, TrainingArguments):  # type: ignore[misc]
    """How an encoder is pretrained: all arguments of `Trainer`, with defaults for pretraining, and a few more.

    Raises:
        UsageError: for values that are not allowed.
    """

    def __post_init__(self) -> None:
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
        if self.ema_decay is not None and self.load_best_model_at_end:
            raise UsageError("--ema_decay ends with the average of the weights, --load_best_model_at_end with others.")
        if self.resume and self.overwrite:
            raise UsageError("--resume goes on and --overwrite starts anew: give one of them.")
        check_training_arguments(self)
        settle_device(self)
        super().__post_init__()
        # The rest of a trapezoid follows from the number of steps.
        trapezoid = self.lr_scheduler_type == SchedulerType.WARMUP_STABLE_DECAY
        check_schedule(self, **({"num_decay_steps": 1} if trapezoid else {}))


@dataclass
class Pretraining:
    """One run: what it was asked for.

    Attributes:
        model: which encoder.
        corpus: on which texts.
        objectives: to learn what.
        args: how.
        arguments: the command line that says all of this, where one does.
    """

    model: ModelArguments
    corpus: CorpusArguments
    objectives: Objectives
    args: PretrainingArguments
    arguments: list[str] = field(default_factory=list)

    @property
    def output(self) -> Path:
        """The output folder."""
        return Path(self.args.output_dir or "")

    @property
    def scratch(self) -> Path:
        """What is needed to go on after an interruption."""
        return self.output / SCRATCH


def parse(arguments: list[str]) -> Pretraining:
    """Read the command line, as `CommandLine.read` does; with `--resume`, completed by that of the interrupted run.

    Raises:
        UsageError: for names and values that are not allowed.
    """
    arguments = with_earlier_ones(arguments)
    kinds = (ModelArguments, CorpusArguments, Objectives, PretrainingArguments)
    model, corpus, objectives, args = COMMAND_LINE.read(arguments, kinds)
    return Pretraining(model, corpus, objectives, args, arguments)
