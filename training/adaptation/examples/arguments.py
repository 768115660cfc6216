"""The options of `sequence-encoder adapt` for the examples and their columns."""

from __future__ import annotations

from dataclasses import dataclass, field

from ....command_line import UsageError
from ....tasks.arguments import ExampleArguments


@dataclass
class TaskDataArguments(ExampleArguments):
    """The source of the examples, and the names of their columns.

    Raises:
        UsageError: If a value is not allowed.
    """

    otherwise = "Use --dataset_name for a dataset on the Hub."
    may_lack_labels = True

    train_file: str | None = field(default=None, metadata={"help": "CSV, TSV, JSON (Lines), Parquet or Arrow."})
    validation_file: str | None = field(default=None, metadata={"help": "Examples that select the best weights."})
    test_file: str | None = field(default=None, metadata={"help": "Examples that evaluate the selected weights."})
    calibration_file: str | None = field(
        default=None, metadata={"help": "Examples to calibrate on; the default is the validation examples."}
    )
    labels: str | None = field(
        default=None,
        metadata={
            "help": "Names of the classes, if no training text has a label, or for --unlabelled_file: one in a line, "
            "or the columns label and description."
        },
    )
    unlabelled_file: str | None = field(
        default=None, metadata={"help": "More texts, without labels, to learn from; they are used if they help."}
    )
    dataset_name: str | None = field(default=None, metadata={"help": "Dataset on the Hub to use instead of files."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of that dataset."})
    validation_split: str = field(default="validation", metadata={"help": "Validation split of that dataset."})
    test_split: str = field(default="test", metadata={"help": "Test split of that dataset."})
    validation_share: float | None = field(
        default=None, metadata={"help": "Share of the examples to hold out for validation."}
    )

    def __post_init__(self) -> None:
        if (self.train_file is None) == (self.dataset_name is None):
            given = "neither" if self.train_file is None else "both"
            raise UsageError(f"exactly one of --train_file and --dataset_name is needed, got {given}.")
        if self.validation_share is not None and not 0 < self.validation_share < 1:
            raise UsageError(f"--validation_share must be between 0 and 1, got {self.validation_share}.")
        super().__post_init__()

    @property
    def lacks_labels(self) -> bool:
        """Whether no training text has a label."""
        return self.labels is not None and self.unlabelled_file is None

    @property
    def finds_labels(self) -> bool:
        """Whether some or all training texts have no label."""
        return self.labels is not None or self.unlabelled_file is not None

    def file_of(self, split: str) -> tuple[str, str] | None:
        """See `ExampleArguments`."""
        source = getattr(self, argument := f"{split}_file")
        return None if source is None else (argument, source)
