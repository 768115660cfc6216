"""The arguments of one run of `sequence-encoder distill`, including the arguments of `Trainer`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import TrainingArguments

from ...command_line import UsageError
from ...command_line.options import check_least
from ..arguments import check_fixed, check_schedule, check_training_arguments, settle_device
from .arguments import DISTILL, DistillationOptions, DistillationTexts, StudentArguments, check_student


@dataclass
class DistillationArguments(DistillationOptions, TrainingArguments):  # type: ignore[misc]
    """`TrainingArguments` with other defaults, and the options of `DistillationOptions`.

    Raises:
        UsageError: If a value is not allowed.
    """

    def __post_init__(self) -> None:
        check_least(self, early_stopping_patience=1, seconds=1, max_tokens=1)
        if self.resume and self.overwrite:
            raise UsageError("--resume continues a run and --overwrite starts over; set only one.")
        check_training_arguments(self)
        check_fixed(
            self,
            per_device_train_batch_size=1,
            remove_unused_columns=False,
            logging_nan_inf_filter=False,
            save_only_model=False,
            load_best_model_at_end=False,
            resume_from_checkpoint=None,
            label_smoothing_factor=0,
            push_to_hub=False,
        )
        settle_device(self)
        super().__post_init__()
        if self.world_size > 1:
            raise UsageError(f"distill runs in one process, got {self.world_size}.")
        check_schedule(self)


@dataclass
class Distillation:
    """The arguments of one run.

    Raises:
        UsageError: If they contradict each other.
    """

    model: StudentArguments
    data: DistillationTexts
    args: DistillationArguments

    def __post_init__(self) -> None:
        check_student(self.model, self.data)

    @property
    def output(self) -> Path:
        """The output folder."""
        return Path(self.args.output_dir or "")

    @property
    def scratch(self) -> Path:
        """The scratch folder, next to the output folder."""
        return self.output.with_name(f".{self.output.name}-distillation")


KINDS = (StudentArguments, DistillationTexts, DistillationArguments)


def parse(arguments: list[str]) -> Distillation:
    """Parse the command line with `Command.read`.

    Raises:
        UsageError: If a name or a value is not allowed.
    """
    return Distillation(*DISTILL.read(arguments, KINDS))
