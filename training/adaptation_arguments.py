"""The options of `sequence-encoder adapt`: which task, on which data, from which encoder, trained how.

Nothing here imports torch, so that mistakes on the command line are refused at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import UsageError
from .command_line import CommandLine
from .tasks import HEAD_TASKS, TASKS
from .tuning import TUNINGS


@dataclass
class AdaptedModelArguments:
    """What is trained.

    Raises:
        UsageError: for values that are not allowed.
    """

    _argument_group_name = "model"

    task: str = field(metadata={"help": "What the encoder learns to do.", "choices": list(TASKS)})
    from_checkpoint: str = field(
        metadata={
            "aliases": ["--from", "--model_name_or_path"],
            "help": "Encoder to train: a folder or a Hub id.",
        }
    )
    tuning: str = field(default="full", metadata={"help": "Which weights are trained.", "choices": list(TUNINGS)})
    from_adapter: str | None = field(default=None, metadata={"help": "Folder of a peft adapter to train further."})
    pooling: str | None = field(
        default=None,
        metadata={
            "help": "How a text becomes one vector.",
            "choices": ["mean", "cls"],
        },
    )
    max_length: int | None = field(default=None, metadata={"help": "Tokens to cut texts to."})
    rank: int = field(default=8, metadata={"help": "Rank of LoRA and DoRA."})
    prompt_length: int = field(default=16, metadata={"help": "Virtual tokens of --tuning prompt."})
    matryoshka_dims: list[int] | None = field(
        default=None, metadata={"help": "Lengths at which cut embeddings stay useful."}
    )

    def __post_init__(self) -> None:
        for name, least in (("max_length", 8), ("rank", 1), ("prompt_length", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"--{name} must be at least {least}, got {value}.")
        allowed = TASKS[self.task].tunings
        if self.tuning not in allowed:
            raise UsageError(
                f"--tuning {self.tuning} is not for --task {self.task}; choose one of {', '.join(allowed)}."
            )
        # peft does not train prompts that it has loaded.
        if self.from_adapter and not (TUNINGS[self.tuning].is_peft and TUNINGS[self.tuning].can_be_merged):
            named = ", ".join(name for name, tuning in TUNINGS.items() if tuning.is_peft and tuning.can_be_merged)
            raise UsageError(f"--from_adapter goes on with one of {named}, got --tuning {self.tuning}.")
        if self.matryoshka_dims and self.task != "embedding":
            raise UsageError(f"--matryoshka_dims are for --task embedding, got {self.task}.")


@dataclass
class TaskDataArguments:
    """The examples.

    Raises:
        UsageError: for values that are not allowed.
    """

    _argument_group_name = "examples"

    train_file: str | None = field(default=None, metadata={"help": "CSV, JSON (Lines), Parquet or Arrow."})
    validation_file: str | None = field(default=None, metadata={"help": "Examples that choose the best weights."})
    test_file: str | None = field(default=None, metadata={"help": "Examples that measure the chosen weights."})
    dataset_name: str | None = field(default=None, metadata={"help": "Dataset of the Hub, instead of files."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of that dataset."})
    validation_split: str = field(default="validation", metadata={"help": "Split of that dataset for validation."})
    test_split: str = field(default="test", metadata={"help": "Split of that dataset for the test."})
    validation_share: float = field(default=0.1, metadata={"help": "Share to hold out instead."})
    text_column: str | None = field(default=None, metadata={"help": "Column of texts, words or questions."})
    text_pair_column: str | None = field(default=None, metadata={"help": "Column of second texts or contexts."})
    label_column: str | None = field(default=None, metadata={"help": "Column of labels, scores or answers."})
    choice_columns: list[str] | None = field(
        default=None, metadata={"help": "Columns of the choices, or one column of lists."}
    )
    label_separator: str = field(default=",", metadata={"help": "What stands between the labels of a text."})
    doc_stride: int = field(default=64, metadata={"help": "Tokens that two windows of a long context share."})

    def __post_init__(self) -> None:
        if (self.train_file is None) == (self.dataset_name is None):
            given = "neither" if self.train_file is None else "both"
            raise UsageError(f"one of --train_file and --dataset_name is needed, got {given}.")
        if not 0 < self.validation_share < 1:
            raise UsageError(f"--validation_share must be between 0 and 1, got {self.validation_share}.")
        if self.doc_stride < 0:
            raise UsageError(f"--doc_stride must be at least 0, got {self.doc_stride}.")


@dataclass
class AdaptationOptions:
    """How it is trained: what `Trainer` does not have, and what it has with other defaults."""

    _argument_group_name = "training"

    output_dir: str | None = field(default="adapted", metadata={"help": "Folder for the model."})
    overwrite: bool = field(default=False, metadata={"help": "Replace the model in the output folder."})
    num_train_epochs: float = field(default=3.0, metadata={"help": "Passes over the examples."})
    learning_rate: float = field(default=1e-4, metadata={"help": "The highest learning rate."})
    per_device_train_batch_size: int = field(
        default=32, metadata={"help": "Examples per device and step.", "metavar": "N"}
    )
    class_weights: str = field(
        default="none", metadata={"help": "Weigh rare classes more.", "choices": ["none", "balanced"]}
    )
    seeds: int = field(default=1, metadata={"help": "Trainings; keeps the best."})
    search_trials: int = field(default=0, metadata={"help": "Trials of a hyperparameter search."})
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Evaluations without a better one.", "metavar": "N"}
    )
    keep_best: bool = field(default=True, metadata={"help": "Keep the weights of the best evaluation."})
    seed: int = field(default=0, metadata={"help": "Seed of the first training."})
    bf16: bool | None = field(
        default=None, metadata={"help": "Autocast to bfloat16; by default where the hardware gains from it."}
    )
    report_to: list[str] = field(  # `HfArgumentParser` would read one name otherwise
        default_factory=lambda: ["none"],
        metadata={"help": "tensorboard, trackio, codecarbon, others, or none."},
    )
    warmup_steps: float = field(default=0.1, metadata={"help": "Steps, or their share, in which the rate rises."})
    weight_decay: float = field(default=0.01, metadata={"help": "Decay of all weights but norms and biases."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Examples per device in an evaluation."})
    eval_strategy: str = field(
        default="epoch", metadata={"help": "When to evaluate.", "choices": ["no", "steps", "epoch"]}
    )
    save_strategy: str = field(default="no", metadata={"help": "Must be 'no': the best weights stay in memory."})
    logging_steps: float = field(default=0.05, metadata={"help": "Steps, or their share, between two logs."})


def _defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of the way of tuning and of the task."""
    tuning, task = TUNINGS.get(given.get("tuning", "full")), TASKS.get(given.get("task", ""))
    defaults = dict(tuning.defaults) if tuning else {}
    metric = given.get("metric_for_best_model") or (task.best_metric if task else None)
    if metric is not None:
        defaults |= {"metric_for_best_model": metric, "greater_is_better": not metric.endswith(("loss", "rmse"))}
    return defaults


# What only some tasks read. All other options are for every task.
_OF_TASKS = {
    "pooling": ("classification", "multi-label", "regression", "multiple-choice", "embedding"),
    "matryoshka_dims": ("embedding",),
    "choice_columns": ("multiple-choice",),
    "label_separator": ("multi-label",),
    "doc_stride": ("qa",),
    "text_pair_column": ("classification", "multi-label", "regression", "qa", "embedding", "ranking"),
    "class_weights": ("classification", "ner"),
    "search_trials": tuple(HEAD_TASKS),
}
# Likewise for ways of tuning.
_OF_TUNINGS = {
    "rank": ("lora", "dora"),
    "prompt_length": ("prompt",),
    "from_adapter": ("lora", "dora", "ia3"),
}
# What the help of a task leaves to the help of the command.
_DETAILS = (
    *("dataset_config_name", "validation_split", "test_split", "bf16", "report_to", "warmup_steps", "weight_decay"),
    *("per_device_eval_batch_size", "eval_strategy", "save_strategy", "logging_steps"),
    *("keep_best", "seed"),
)


def _out_of_use(given: Mapping[str, Any]) -> set[str]:
    """The options that say nothing for a task and a way of tuning, or that a task leaves as they are."""
    task, tuning = given.get("task"), given.get("tuning", "full")
    if task not in TASKS:
        return {"save_strategy"}
    of_others = {name for name, tasks in _OF_TASKS.items() if task not in tasks}
    of_others |= {name for name, tunings in _OF_TUNINGS.items() if tuning not in tunings}
    tunings = TASKS[task].tunings
    of_others |= {f"tuning={name}" for name in TUNINGS if name not in tunings}
    if len(tunings) == 1:
        of_others.add("tuning")
    return {*of_others, *_DETAILS}


COMMAND_LINE = CommandLine(
    "adapt",
    "Train an encoder for a task, on examples from files or the Hub.",
    "--task classification --from MODEL --train_file train.csv --output_dir classifier",
    (AdaptedModelArguments, TaskDataArguments, AdaptationOptions),
    with_trainer=True,
    defaults=_defaults,
    narrowed_by=("task", "tuning"),
    out_of_use=_out_of_use,
)
