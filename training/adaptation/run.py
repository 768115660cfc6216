"""The arguments of one run of `sequence-encoder adapt`, including the arguments of `Trainer`."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments

from ...command_line import UsageError
from ...command_line.options import check_least
from ..arguments import check_fixed, check_schedule, check_training_arguments, settle_device
from ..tensor_parallel import tensor_parallel_size
from .arguments import ADAPT, AdaptationOptions, AdaptedModelArguments, TaskDataArguments, is_better_if_greater
from .plan import FALLBACK


@dataclass
class AdaptationArguments(AdaptationOptions, TrainingArguments):  # type: ignore[misc]
    """`TrainingArguments` with other defaults, and the options of `AdaptationOptions`.

    Raises:
        UsageError: If a value is not allowed.
    """

    def __post_init__(self) -> None:
        # Options that the examples decide; see `plan`.
        self.planned = [name for name in FALLBACK if getattr(self, name) is None]
        for name in self.planned:
            setattr(self, name, FALLBACK[name])
        if self.save_steps != AdaptationOptions.save_steps and "save_strategy" in self.planned:
            self.planned.remove("save_strategy")
        if self.max_steps > 0 and "num_train_epochs" in self.planned:
            self.planned.remove("num_train_epochs")
        if self.greater_is_better is None and self.metric_for_best_model is not None:
            self.greater_is_better = is_better_if_greater(self.metric_for_best_model)
        check_least(self, seeds=1, search_trials=0, early_stopping_patience=1, seconds=1)
        if self.seconds and self.search_trials:
            raise UsageError("--seconds cannot bound a search; leave out --seconds or --search_trials.")
        if self.average_seeds and self.seeds < 2:
            raise UsageError(f"--average_seeds needs --seeds of at least 2, got {self.seeds}.")
        if self.seed + self.seeds > 2**32:
            raise UsageError(f"--seed must be at most {2**32 - self.seeds} with --seeds {self.seeds}, got {self.seed}.")
        check_training_arguments(self)
        check_fixed(
            self,
            logging_nan_inf_filter=False,
            save_only_model=False,
            load_best_model_at_end=False,
            prediction_loss_only=False,
            resume_from_checkpoint=None,
            remove_unused_columns=True,
        )
        if self.early_stopping_patience and not (self.keep_best and self.eval_strategy != "no"):
            raise UsageError("--early_stopping_patience needs --keep_best and an --eval_strategy other than no.")
        if self.fsdp or parse_flag_from_env("ACCELERATE_USE_FSDP") or tensor_parallel_size() > 1:
            raise UsageError(
                "adapt cannot train sharded models, with FSDP or tensor parallelism. Use DDP, for example with "
                "accelerate launch --config_file examples/ddp.yaml, or shard the model in a script with Trainer."
            )
        settle_device(self)
        super().__post_init__()
        check_schedule(self)


@dataclass
class Adaptation:
    """The arguments of one run."""

    model: AdaptedModelArguments
    data: TaskDataArguments
    args: AdaptationArguments

    @property
    def output(self) -> Path:
        """The output folder."""
        return Path(self.args.output_dir or "")

    @property
    def scratch(self) -> Path:
        """The scratch folder, next to the output folder."""
        return self.output.with_name(f".{self.output.name}-adaptation")


def parse(arguments: list[str]) -> Adaptation:
    """Parse the command line with `Command.read`.

    Raises:
        UsageError: If a name or a value is not allowed.
    """
    return Adaptation(*ADAPT.read(arguments, (AdaptedModelArguments, TaskDataArguments, AdaptationArguments)))


def training_arguments(run: Adaptation, folder: Path, seed: int, changed: dict[str, Any]) -> AdaptationArguments:
    """Return the arguments of one training run, whose `Trainer` writes into `folder` and does not push."""
    args = copy.deepcopy(run.args)
    args.seed, args.push_to_hub, args.output_dir = seed, False, str(folder)
    for name, value in changed.items():
        setattr(args, name, value)
    return args
