"""The options of `sequence-encoder adapt` for the task, the encoder, the examples and the training.

Nothing here imports torch, so that the command line reports mistakes at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...command_line import UsageError
from ...command_line.extras import require, require_reporters
from ...command_line.options import (
    DATASET_CONFIG_NAME,
    EARLY_STOPPING_PATIENCE,
    LABEL_DESCRIPTIONS,
    LABEL_NAMES_FILE,
    MATRYOSHKA_DIMS,
    MAX_LENGTH,
    OVERWRITE,
    REPORT_TO,
    SECONDS,
    SEED,
    TRUE_OR_FALSE,
    option,
)
from ...command_line.parser import Command, check_used, read_label_descriptions
from ...evaluation.calibration.arguments import CALIBRATED_TASKS, CALIBRATION_FILE
from ...evaluation.tasks.example_arguments import ExampleArguments, ExampleFiles
from .given_rows import GivenRows
from .tasks import EXTRACTION_TASKS, HEAD_TASKS, TASKS, WRITING_TASKS


@dataclass(frozen=True)
class Tuning:
    """A tuning method.

    Attributes:
        defaults: Training arguments that apply unless the user sets them.
        is_peft: Whether PEFT trains an adapter.
        can_be_merged: Whether the trained weights can be merged into the encoder.
    """

    defaults: Mapping[str, Any] = field(default_factory=dict)
    is_peft: bool = False
    can_be_merged: bool = True


# The fewer weights are trained, the higher the learning rate. With `auto`, the model is trained like with `full`, and
# `cross_validation` may keep the linear model that the training starts from.
TUNINGS: dict[str, Tuning] = {
    "auto": Tuning(),
    "full": Tuning(),
    "head": Tuning({"learning_rate": 3e-3, "num_train_epochs": 10.0}),
    "adapter": Tuning({"learning_rate": 1e-2, "num_train_epochs": 50.0}),
    "lora": Tuning({"learning_rate": 2e-3}, is_peft=True),
    "dora": Tuning({"learning_rate": 2e-3}, is_peft=True),
    "ia3": Tuning({"learning_rate": 1e-2}, is_peft=True),
    "prompt": Tuning({"learning_rate": 1e-2, "num_train_epochs": 10.0}, is_peft=True, can_be_merged=False),
}

_SMALLER_IS_BETTER = ("loss", "rmse", "nats_per_token", "perplexity")
_POOLED = ("classification", "multi-label", "regression", "multiple-choice", "embedding")
# Arguments that have an effect only with some values of another argument.
_USED_WITH: dict[str, tuple[str, tuple[str, ...]]] = {
    "rank": ("tuning", ("lora", "dora")),
    "prompt_length": ("tuning", ("prompt",)),
    "pooling": ("task", _POOLED),
    "matryoshka_dims": ("task", ("embedding",)),
    "text_pair_column": (
        "task",
        tuple(task for task in TASKS if task not in ("ner", *EXTRACTION_TASKS, *WRITING_TASKS)),
    ),
    "label_column": ("task", tuple(task for task in TASKS if task != "infilling")),
    "max_gap_tokens": ("task", ("infilling",)),
    "block_length": ("task", ("conversation",)),
    "choice_columns": ("task", ("multiple-choice",)),
    "label_separator": ("task", ("multi-label",)),
    "label_names_file": ("task", ("classification",)),
    "zero_shot_model": ("task", ("classification",)),
    "unlabelled_file": ("task", ("classification",)),
    "doc_stride": ("task", ("qa",)),
    "calibrate": ("task", CALIBRATED_TASKS),
    "calibration_file": ("task", CALIBRATED_TASKS),
    "label_descriptions": ("task", ("extraction",)),
    "held_out_labels": ("task", ("extraction",)),
    "masked_tuning": ("task", ("classification", "multi-label", "regression")),
    "eval_steps": ("eval_strategy", ("steps",)),
    "save_steps": ("save_strategy", ("steps",)),
}
# Arguments that have no effect with another argument.
_NOT_USED_WITH = {
    "rank": "from_adapter",
    "validation_share": "validation_file",
    "validation_split": "train_file",
    "test_split": "train_file",
    "dataset_config_name": "train_file",
    "num_train_epochs": "max_steps",
    "seconds": "max_steps",
    "text_pair_column": "label_names_file",
    "zero_shot_model": "unlabelled_file",
}
# Without labels, there is nothing to choose by.
_NOT_USED_WITHOUT_LABELS = ("validation_file", "search_trials", "early_stopping_patience")
# Values beyond what any encoder can use would exhaust the memory.
_LIMITS = (
    ("max_length", 8, 1_000_000),
    ("rank", 1, 10_000),
    ("prompt_length", 1, 10_000),
    ("max_gap_tokens", 1, 100_000),
    ("block_length", 1, 100_000),
)


@dataclass
class AdaptedModelArguments:
    """The task, the encoder, and the weights to train.

    Raises:
        UsageError: If a value is not allowed.
    """

    _argument_group_name = "model"

    model: str = option("Folder or Hub id of the encoder to train.")
    task: str = option("Task to train for.", choices=list(TASKS), metavar="TASK")
    tuning: str = option(
        "Which weights to train; auto trains all of them if that improves the model.", "auto", choices=list(TUNINGS)
    )
    from_adapter: str | None = option("Folder of a PEFT adapter to continue training.", None, metavar="ADAPTER")
    pooling: str | None = option(
        "How to pool token vectors into a text vector (default: as the model says).", None, choices=["mean", "cls"]
    )
    max_length: int | None = option(default=None, **MAX_LENGTH)
    rank: int = option("Rank of LoRA and DoRA.", 8)
    prompt_length: int = option("Number of virtual tokens for --tuning prompt.", 16)
    matryoshka_dims: list[int] | None = option(default=None, **MATRYOSHKA_DIMS)
    max_gap_tokens: int = option("Maximum number of mask tokens in a gap.", 16)
    block_length: int = option("Maximum number of mask tokens to append to a reply at a time.", 32)

    def __post_init__(self) -> None:
        for name, least, most in _LIMITS:
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                allowed = f"at least {least}" if value < least else f"at most {most:,}"
                raise UsageError(f"--{name} must be {allowed}, got {value}.")
        if wrong := [size for size in self.matryoshka_dims or () if size < 1]:
            raise UsageError(f"--matryoshka_dims must be at least 1, got {wrong[0]}.")
        tunings = ("auto", *TASKS[self.task].tunings)
        if self.tuning not in tunings:
            raise UsageError(
                f"--tuning {self.tuning} does not support --task {self.task}; choose one of {', '.join(tunings)}."
            )
        # PEFT does not train prompts that it has loaded.
        if self.from_adapter and not (TUNINGS[self.tuning].is_peft and TUNINGS[self.tuning].can_be_merged):
            named = ", ".join(name for name, tuning in TUNINGS.items() if tuning.is_peft and tuning.can_be_merged)
            raise UsageError(f"--from_adapter needs --tuning to be one of {named}, got --tuning {self.tuning}.")


@dataclass
class TaskDataArguments(ExampleArguments):
    """The source of the examples, and the names of their columns.

    Attributes:
        given: The examples of the splits that a program passes instead of files. The options of their files only say
            how they are called.

    Raises:
        UsageError: If a value is not allowed.
    """

    otherwise = "Use --dataset_name for a dataset on the Hub."
    may_lack_labels = True

    train_file: str | None = option("Training examples: CSV, TSV, JSON (Lines), Parquet or Arrow.", None)
    validation_file: str | None = option("Validation examples, to select the best weights.", None)
    test_file: str | None = option("Test examples, to evaluate the selected weights.", None)
    calibration_file: str | None = option(f"{CALIBRATION_FILE['help']} (default: the validation examples)", None)
    label_names_file: str | None = option(
        f"{LABEL_NAMES_FILE['help'].rstrip('.')}, for training texts without labels.",
        None,
    )
    zero_shot_model: str | None = option(
        "Model for natural language inference that compares texts and names, instead of the encoder.", None
    )
    label_descriptions: dict[str, str] | str | None = option(default=None, **LABEL_DESCRIPTIONS)
    held_out_labels: list[str] | None = option(
        "Labels to leave out of the training, and to evaluate as labels that the model has never seen. The weights and "
        "the threshold are those that are best for these and the other labels.",
        None,
    )
    unlabelled_file: str | None = option("Texts without labels, used if they improve the model.", None)
    dataset_name: str | None = option("Dataset on the Hub, to use instead of files.", None, metavar="DATASET")
    dataset_config_name: str | None = option(default=None, **DATASET_CONFIG_NAME)
    validation_split: str = option("Validation split of the dataset on the Hub.", "validation")
    test_split: str = option("Test split of the dataset on the Hub.", "test")
    validation_share: float | None = option("Share of the training examples to hold out for validation.", None)

    def __post_init__(self) -> None:
        if (self.train_file is None) == (self.dataset_name is None):
            given = "neither" if self.train_file is None else "both"
            raise UsageError(f"exactly one of --train_file and --dataset_name is needed, got {given}.")
        if self.validation_share is not None and not 0 < self.validation_share < 1:
            raise UsageError(f"--validation_share must be between 0 and 1, got {self.validation_share}.")
        self.label_descriptions = read_label_descriptions(self.label_descriptions)
        self.given: dict[str, GivenRows] = {}
        super().__post_init__()

    @property
    def lacks_labels(self) -> bool:
        """Whether no training text has a label."""
        return self.label_names_file is not None and self.unlabelled_file is None

    @property
    def finds_labels(self) -> bool:
        """Whether some or all training texts have no label."""
        return self.label_names_file is not None or self.unlabelled_file is not None

    def file_of(self, split: str) -> tuple[str, str] | None:
        """See `ExampleArguments`."""
        source = getattr(self, argument := f"{split}_file")
        return None if source is None else (argument, source)

    def files_of(self, split: str) -> ExampleFiles | None:
        """See `ExampleArguments`."""
        return self.given.get(split) or super().files_of(split)


@dataclass
class AdaptationOptions:
    """Training options that `TrainingArguments` lacks, and those whose defaults differ here."""

    _argument_group_name = "training"

    output_dir: str | None = option("Folder to write the model to.", "adapted")
    overwrite: bool = option(default=False, **OVERWRITE)
    resume: bool = option("Continue an interrupted run.", False)
    # `plan` sets these, and `warmup_steps` and `save_strategy`, from the number of examples, unless the user does.
    num_train_epochs: float | None = option("Number of epochs (default: planned).", None)
    learning_rate: float | None = option("Peak learning rate (default: planned).", None)
    per_device_train_batch_size: int | None = option("Training batch size per device (default: planned).", None)
    seconds: float | None = option(default=None, **SECONDS)
    class_weights: str = option("Class weights of the loss.", "none", choices=["none", "balanced"])
    masked_tuning: bool = option(
        "Mask random tokens in half of the training texts, so that explanations see familiar inputs.", False
    )
    seeds: int = option("Number of training runs; the best one is kept.", 1)
    average_seeds: bool = option("Average the weights of all training runs instead of keeping the best one.", False)
    search_trials: int = option("Number of hyperparameter search trials.", 0)
    early_stopping_patience: int | None = option(default=None, **EARLY_STOPPING_PATIENCE)
    calibrate: str = option(
        "Whether to calibrate the scores; auto needs 200 validation examples.",
        "auto",
        choices=["auto", "yes", "no"],
    )
    keep_best: bool = option("Keep the weights of the best evaluation.", True)
    seed: int = option(default=0, **SEED)
    bf16: bool | None = option("Autocast to bfloat16 (default: if the hardware is fast at it).", None, **TRUE_OR_FALSE)
    report_to: list[str] = option(default=["none"], **REPORT_TO)
    warmup_steps: float | None = option("Number of warmup steps, or a share of all steps (default: planned).", None)
    weight_decay: float = option("Weight decay; norms and biases are exempt.", 0.01)
    per_device_eval_batch_size: int = option("Evaluation batch size per device.", 64)
    eval_strategy: str = option("When to evaluate.", "epoch", choices=["no", "steps", "epoch"])
    save_strategy: str | None = option(
        "When to save a checkpoint (default: planned).", None, choices=["no", "steps", "epoch"]
    )
    save_steps: float = option("Number of steps between checkpoints, or a share of all steps.", 0.1)
    save_total_limit: int | None = option("Number of checkpoints to keep.", 1)
    logging_steps: float = option("Number of steps between logs, or a share of all steps.", 0.05)
    logging_nan_inf_filter: bool = option("Must be False: a NaN loss ends the run.", False)


def check_libraries(model: AdaptedModelArguments, options: AdaptationOptions) -> None:
    """Check that all optional libraries that the run needs are installed.

    Raises:
        MissingLibraryError: If one of them is missing.
    """
    extra = "adapt"
    require("adapt", "datasets", "filelock", extra=extra)
    require(f"--task {model.task}", *TASKS[model.task].libraries, extra=extra)
    if TUNINGS[model.tuning].is_peft:
        require(f"--tuning {model.tuning}", "peft", extra=extra)
    if options.search_trials:
        require("--search_trials", "optuna", extra=extra)
    require_reporters(options.report_to)


def _defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults that the tuning method and the task set."""
    _check_used(given)
    tuning = TUNINGS.get(given.get("tuning", "auto"))
    return dict(tuning.defaults) if tuning else {}


def is_better_if_greater(metric: str) -> bool:
    """Return whether larger values of a metric are better."""
    return not metric.endswith(_SMALLER_IS_BETTER)


# Options that the help of a task shows only where they have an effect.
_SHOWN_WITH: dict[str, tuple[str, tuple[str, ...]]] = {
    **_USED_WITH,
    "class_weights": ("task", ("classification", "ner")),
    "search_trials": ("task", (*HEAD_TASKS, *EXTRACTION_TASKS, *WRITING_TASKS)),
    "from_adapter": ("tuning", ("lora", "dora", "ia3")),
}
# Options that only the help of the command without a task shows.
_DETAILS = (
    *("encoding", "delimiter", "calibration_file", "dataset_config_name", "validation_split", "test_split"),
    *("bf16", "report_to", "warmup_steps", "weight_decay", "zero_shot_model", "per_device_eval_batch_size"),
    *("eval_strategy", "save_strategy", "save_steps", "save_total_limit", "logging_steps"),
    *("keep_best", "seed", "masked_tuning"),
)


def _unused_options(given: Mapping[str, Any]) -> set[str]:
    """Return the options and choices that the task does not use, and that the help therefore omits."""
    hidden, task = {"logging_nan_inf_filter"}, given.get("task")
    if task not in TASKS:
        return hidden
    chosen, tunings = {"tuning": "auto", **given}, ("auto", *TASKS[task].tunings)
    hidden |= {name for name, (other, values) in _SHOWN_WITH.items() if chosen.get(other, values[0]) not in values}
    hidden |= {f"tuning={name}" for name in TUNINGS if name not in tunings}
    return {*hidden, *_DETAILS, *(("tuning",) if len(tunings) == 2 else ())}


def _check_used(given: Mapping[str, Any]) -> None:
    """Check that every given argument has an effect."""
    fields = {each.name: each for kind in _KINDS for each in dataclasses.fields(kind)}
    for name, (other, values) in _USED_WITH.items():
        value = given.get(other, fields[other].default)
        if name in given and value in fields[other].metadata.get("choices", (value,)) and value not in values:
            allowed = " or ".join((", ".join(values[:-1]), values[-1]) if len(values) > 1 else values)
            raise UsageError(f"--{name} has no effect with --{other} {value}; it is for --{other} {allowed}.")
    check_used(given, _NOT_USED_WITH.items())
    if "zero_shot_model" in given and "label_names_file" not in given:
        raise UsageError("--zero_shot_model needs a --label_names_file, whose names it compares with the texts.")
    if "unlabelled_file" not in given:
        check_used(given, [(name, "label_names_file") for name in _NOT_USED_WITHOUT_LABELS])


_KINDS = (AdaptedModelArguments, TaskDataArguments, AdaptationOptions)
ADAPT = Command(
    "adapt",
    "Fine-tune an encoder for a task: classification, entities, question answering, embeddings, ranking and others.",
    "answerdotai/ModernBERT-base --task classification --train_file train.csv --output_dir adapted",
    _KINDS,
    check=lambda model, data, options: check_libraries(model, options),
    with_trainer=True,
    defaults=_defaults,
    narrowed_by=("task", "tuning"),
    left_out=_unused_options,
)
