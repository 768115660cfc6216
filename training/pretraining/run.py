"""The arguments of one run of `sequence-encoder pretrain`, including the arguments of `Trainer`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from transformers import SchedulerType, TrainingArguments

from ...command_line import UsageError
from ...command_line.options import check_least
from ...data.corpus import CorpusArguments
from ..arguments import check_fixed, check_schedule, check_training_arguments, settle_device
from .arguments import PRETRAIN, SCRATCH, ModelArguments, PretrainingOptions, with_saved_arguments
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
    """The arguments of one run, and the command line that these were parsed from, if any."""

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
        """The folder for what an interrupted run needs to resume."""
        return self.output / SCRATCH


def parse(arguments: list[str]) -> Pretraining:
    """Parse the command line with `Command.read`. With `--resume`, the interrupted run completes it.

    Raises:
        UsageError: If a name or a value is not allowed.
    """
    arguments = with_saved_arguments(PRETRAIN.as_options(arguments))
    kinds = (ModelArguments, CorpusArguments, Objectives, PretrainingArguments)
    model, corpus, objectives, args = PRETRAIN.read(arguments, kinds)
    return Pretraining(model, corpus, objectives, args, arguments)
