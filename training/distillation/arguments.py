"""The options of `sequence-encoder distill` for the teacher, the student, the texts and the training.

Nothing here imports torch, so that the command line reports mistakes at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...command_line import UsageError
from ...command_line.extras import require, require_reporters
from ...command_line.options import (
    EARLY_STOPPING_PATIENCE,
    LABEL_COLUMN,
    MATRYOSHKA_DIMS,
    MAX_LENGTH,
    MAX_TOKENS,
    OVERWRITE,
    REPORT_TO,
    SECONDS,
    SEED,
    TEXT_PAIR_COLUMN,
    TRUE_OR_FALSE,
    check_least,
    option,
)
from ...command_line.parser import Command, check_used
from ...data.corpus import CORPUS, TextArguments
from ...inference.corpora.arguments import check_libraries as check_bulk_libraries

# Arguments that have no effect with another argument.
_NOT_USED_WITH = (
    *((name, "max_steps") for name in ("num_train_epochs", "seconds")),
    *((name, "static") for name in ("layers", "hidden_size", "matryoshka_dims", "text_pair_column", "max_steps")),
)


@dataclass
class StudentArguments:
    """The teacher, and the size of the student.

    Raises:
        UsageError: If a value is not allowed.
    """

    _argument_group_name = "model"

    model: str = option(
        "Folder or Hub id of the teacher: a sentence encoder, a classifier, a cross-encoder or a tagger."
    )
    layers: int | None = option("Number of layers of the student (default: half of those of the teacher).", None)
    hidden_size: int | None = option(
        "Hidden size of a student that is also narrower (default: that of the teacher).", None
    )
    student: str | None = option(
        "Folder or Hub id of a smaller pretrained model that becomes the student (default: layers of the teacher).",
        None,
    )
    static: bool = option("Make a static student: a table of token vectors, hundreds of times as fast.", False)
    dim: int | None = option("Number of channels of a static student (default: 384).", None)
    max_length: int | None = option(default=None, **MAX_LENGTH)
    matryoshka_dims: list[int] | None = option(
        f"{MATRYOSHKA_DIMS['help'].rstrip('.')} (default: the powers of two from 32).", None
    )

    def __post_init__(self) -> None:
        check_least(self, layers=1, hidden_size=1, dim=1, max_length=1)
        if wrong := [size for size in self.matryoshka_dims or () if size < 1]:
            raise UsageError(f"--matryoshka_dims must be at least 1, got {wrong[0]}.")


@dataclass
class DistillationTexts(TextArguments):
    """The texts that the student learns from, which need no labels."""

    corpus: str | None = option(  # type: ignore[assignment]
        f"{CORPUS['help'].rstrip('.')}. A static student needs none.", None
    )
    text_pair_column: str | None = option(default=None, **TEXT_PAIR_COLUMN)
    test_file: str | None = option("Test examples with labels, to compare the student with its teacher.", None)
    label_column: str = option(default="label", **LABEL_COLUMN)

    def __post_init__(self) -> None:
        if self.corpus is not None:
            super().__post_init__()


@dataclass
class DistillationOptions:
    """Training options that `TrainingArguments` lacks, and those whose defaults differ here."""

    _argument_group_name = "training"

    output_dir: str | None = option("Folder to write the student to.", "distilled")
    overwrite: bool = option(default=False, **OVERWRITE)
    resume: bool = option("Continue an interrupted run.", False)
    seconds: float | None = option(default=600.0, **SECONDS)
    num_train_epochs: float = option("Largest number of epochs.", 10.0)
    learning_rate: float | None = option(
        "Peak learning rate (default: 5e-4, 1e-4 for a pretrained sentence encoder, 2e-3 for a static student).", None
    )
    max_tokens: int = option(default=2048, **MAX_TOKENS)
    early_stopping_patience: int | None = option(default=3, **EARLY_STOPPING_PATIENCE)
    seed: int = option(default=0, **SEED)
    bf16: bool | None = option("Autocast to bfloat16 (default: if the hardware is fast at it).", None, **TRUE_OR_FALSE)
    report_to: list[str] = option(default=["none"], **REPORT_TO)
    lr_scheduler_type: str = option("Learning rate schedule: linear, cosine and others.", "linear", metavar="SCHEDULE")
    warmup_steps: float = option("Number of warmup steps, or a share of all steps.", 0.1)
    weight_decay: float = option("Weight decay; norms and biases are exempt.", 0.01)
    eval_strategy: str = option("When to evaluate.", "steps", choices=["no", "steps", "epoch"])
    eval_steps: float | None = option("Number of steps between evaluations, or a share of all steps.", 0.2)
    save_steps: float = option("Number of steps between checkpoints, or a share of all steps.", 0.2)
    save_total_limit: int | None = option("Number of checkpoints to keep.", 1)
    logging_steps: float = option("Number of steps between logs, or a share of all steps.", 0.05)
    per_device_train_batch_size: int = option("Must be 1: --max_tokens limits the batches.", 1)
    per_device_eval_batch_size: int = option("Evaluation batch size per device.", 64)
    remove_unused_columns: bool = option("Must be False.", False)
    logging_nan_inf_filter: bool = option("Must be False: a NaN loss ends the run.", False)


# Options that the help leaves out.
_FIXED = ("per_device_train_batch_size", "remove_unused_columns", "logging_nan_inf_filter")


def check_libraries(texts: DistillationTexts, options: DistillationOptions) -> None:
    """Check that all optional libraries that the run needs are installed.

    Raises:
        MissingLibraryError: If one of them is missing.
    """
    check_bulk_libraries("distill")
    if texts.test_file is not None:
        require("--test_file", "sklearn", extra="adapt")
    require_reporters(options.report_to)


def _defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    if "label_column" in given and "test_file" not in given:
        raise UsageError("--label_column needs a --test_file, since the texts of --corpus need no labels.")
    check_used(given, _NOT_USED_WITH)
    return {}


def check_student(student: StudentArguments, texts: DistillationTexts) -> None:
    """Check the options that only a static or a pretrained student can have, or need not have.

    Raises:
        UsageError: If one of them does not fit.
    """
    if texts.corpus is None and not student.static:
        raise UsageError(f"--corpus must be given. {DISTILL.with_example}")
    if student.dim is not None and not student.static:
        raise UsageError("--dim needs --static; --hidden_size makes other students narrower.")
    for name in ("layers", "hidden_size", "static") if student.student is not None else ():
        if getattr(student, name):
            raise UsageError(f"--{name} has no effect with --student; leave one of them out.")


def _check(student: StudentArguments, texts: DistillationTexts, options: DistillationOptions) -> None:
    check_student(student, texts)
    check_libraries(texts, options)


DISTILL = Command(
    "distill",
    "Make a smaller and faster model from a trained one, with texts that need no labels.",
    'minilm --corpus "texts/*.parquet" --layers 3 --output_dir distilled',
    (StudentArguments, DistillationTexts, DistillationOptions),
    check=_check,
    with_trainer=True,
    defaults=_defaults,
    left_out=lambda given: _FIXED,
)
