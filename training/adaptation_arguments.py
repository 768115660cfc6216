"""The arguments of `sequence-encoder adapt`: which task, on which data, from which encoder, trained how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from . import UsageError
from .arguments import check_fixed, parse_arguments, settle_device
from .tasks import TASKS
from .text_files import TextFormat
from .tuning import TUNINGS


@dataclass
class AdaptedModelArguments:
    """What is trained.

    Raises:
        UsageError: for values that are not allowed.
    """

    task: str = field(metadata={"help": "What the encoder is to do.", "choices": list(TASKS)})
    from_checkpoint: str = field(
        metadata={
            "aliases": ["--from", "--model_name_or_path"],
            "help": "A folder or a Hub id of an encoder: ours, or of a family that can be carried over. With --tuning "
            "adapter any that AutoModel loads.",
        }
    )
    tuning: str = field(default="full", metadata={"help": "Which weights are trained.", "choices": list(TUNINGS)})
    from_adapter: str | None = field(
        default=None, metadata={"help": "A folder of a peft adapter of the same encoder, to go on from."}
    )
    pooling: str | None = field(
        default=None,
        metadata={
            "help": "How a text becomes one vector; by default as the checkpoint says.",
            "choices": ["mean", "cls"],
        },
    )
    max_length: int | None = field(
        default=None,
        metadata={
            "help": "Tokens that a text, or a window of it, is cut to; by default 256, or what there is room for."
        },
    )
    rank: int = field(default=8, metadata={"help": "Of LoRA and DoRA."})
    prompt_length: int = field(default=16, metadata={"help": "Virtual tokens of prompt tuning."})
    matryoshka_dims: list[int] | None = field(
        default=None, metadata={"help": "Of embeddings: train them to be of use when they are cut to these lengths."}
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

    train_file: str | None = field(
        default=None, metadata={"help": "A file, a folder or a pattern: CSV, TSV, JSON (Lines), Parquet, Arrow."}
    )
    validation_file: str | None = field(default=None, metadata={"help": "To choose the best weights by."})
    test_file: str | None = field(default=None, metadata={"help": "To say how good the chosen ones are."})
    encoding: str | None = field(
        default=None,
        metadata={"help": "The encoding of the files, such as latin-1; by default UTF-8, or by their byte order mark."},
    )
    delimiter: str | None = field(
        default=None, metadata={"help": "The character between two columns of a CSV file, such as ';'."}
    )
    dataset_name: str | None = field(default=None, metadata={"help": "Of the Hub, instead of files."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Of a dataset of the Hub with several."})
    validation_split: str = field(default="validation", metadata={"help": "Of a dataset of the Hub."})
    test_split: str = field(default="test", metadata={"help": "Of a dataset of the Hub."})
    validation_share: float = field(
        default=0.1, metadata={"help": "Of the examples that is held out for validation where no file is given."}
    )
    text_column: str | None = field(
        default=None, metadata={"help": "Texts, words or questions; each task has a default."}
    )
    text_pair_column: str | None = field(default=None, metadata={"help": "Second texts or contexts."})
    label_column: str | None = field(default=None, metadata={"help": "What is to be learned."})
    choice_columns: list[str] | None = field(
        default=None, metadata={"help": "Of a multiple choice: a column for each, or one of lists."}
    )
    label_separator: str = field(
        default=",", metadata={"help": "Between the labels of a text, where they are no list."}
    )
    doc_stride: int = field(default=64, metadata={"help": "Tokens that two windows of a long context share."})

    def __post_init__(self) -> None:
        if (self.train_file is None) == (self.dataset_name is None):
            given = "neither" if self.train_file is None else "both"
            raise UsageError(f"one of --train_file and --dataset_name is needed, got {given}.")
        if not 0 < self.validation_share < 1:
            raise UsageError(f"--validation_share must be between 0 and 1, got {self.validation_share}.")
        if self.doc_stride < 0:
            raise UsageError(f"--doc_stride must be at least 0, got {self.doc_stride}.")
        TextFormat(self.encoding, self.delimiter)


@dataclass
class AdaptationArguments(TrainingArguments):
    """How it is trained: all arguments of `Trainer`, with defaults for adaptation, and a few more.

    Raises:
        UsageError: for values that are not allowed.
    """

    output_dir: str | None = field(default="adapted", metadata={"help": "The folder for the model."})
    overwrite: bool = field(default=False, metadata={"help": "Replace the model that is in the output folder."})
    seeds: int = field(
        default=1, metadata={"help": "Trainings with different seeds; the best one is kept, all are reported."}
    )
    search_trials: int = field(
        default=0, metadata={"help": "Trials of a search for learning rate, epochs and batch size (needs optuna)."}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Evaluations without a better one after which training ends."}
    )
    class_weights: str = field(
        default="none", metadata={"help": "Weigh classes by how rare they are.", "choices": ["none", "balanced"]}
    )
    learning_rate: float = field(default=1e-4, metadata={"help": "The highest learning rate."})
    weight_decay: float = field(default=0.01, metadata={"help": "Of all weights but norms and biases."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Steps, or the share of them, in which the rate rises."})
    num_train_epochs: float = field(default=3.0, metadata={"help": "How often the examples are seen."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Examples on a device at a time."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Examples on a device at a time."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, steps or epoch."})
    save_strategy: str = field(default="no", metadata={"help": "Must be 'no': the best weights are kept in memory."})
    keep_best: bool = field(
        default=True, metadata={"help": "End with the weights of the best evaluation, and not with the last ones."}
    )
    bf16: bool | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Autocast to bfloat16; by default where this machine is faster with it."}
    )
    report_to: list[str] = field(  # `HfArgumentParser` would read one name otherwise
        default_factory=lambda: ["none"],
        metadata={"help": "Where to log: any of tensorboard, trackio, codecarbon (energy), ..., or none."},
    )
    logging_steps: float = field(default=0.05, metadata={"help": "Steps, or the share of them, between two logs."})
    seed: int = field(default=0, metadata={"help": "Of the first training."})

    def __post_init__(self) -> None:
        for name, least in (("seeds", 1), ("search_trials", 0), ("early_stopping_patience", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"--{name} must be at least {least}, got {value}.")
        check_fixed(
            self,
            save_strategy="no",
            load_best_model_at_end=False,
            resume_from_checkpoint=None,
            remove_unused_columns=True,
        )
        if self.early_stopping_patience and not (self.keep_best and self.eval_strategy != "no"):
            raise UsageError("--early_stopping_patience needs --keep_best and an --eval_strategy other than no.")
        settle_device(self)
        super().__post_init__()


@dataclass
class Adaptation:
    """One run: what it was asked for.

    Attributes:
        model: what is trained.
        data: on which examples.
        args: how.
    """

    model: AdaptedModelArguments
    data: TaskDataArguments
    args: AdaptationArguments

    @property
    def output(self) -> Path:
        """The output folder."""
        return Path(self.args.output_dir or "")

    @property
    def scratch(self) -> Path:
        """What is needed while training, beside the output folder."""
        return self.output.with_name(f".{self.output.name}-adaptation")


def parse(arguments: list[str]) -> Adaptation:
    """Reads the command line, as `parse_arguments` does.

    Raises:
        UsageError: for names and values that are not allowed.
    """
    kinds = (AdaptedModelArguments, TaskDataArguments, AdaptationArguments)
    described = "Train an encoder for a task, on examples from files or the Hub."
    return Adaptation(*parse_arguments("adapt", described, kinds, arguments, _defaults))


def _defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the way of tuning, and of the task."""
    tuning, task = TUNINGS.get(given.get("tuning", "full")), TASKS.get(given.get("task", ""))
    defaults = dict(tuning.defaults) if tuning else {}
    metric = given.get("metric_for_best_model") or (task.best_metric if task else None)
    if metric is not None:
        defaults |= {"metric_for_best_model": metric, "greater_is_better": not metric.endswith(("loss", "rmse"))}
    return defaults
