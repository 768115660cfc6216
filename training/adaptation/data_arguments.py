"""The options of `sequence-encoder adapt` that say where the examples are, and what their columns are called."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...command_line import UsageError
from ...data.text_files import TextFormat


@dataclass
class TaskDataArguments:
    """The examples.

    Raises:
        UsageError: for values that are not allowed.
    """

    _argument_group_name = "examples"

    train_file: str | None = field(default=None, metadata={"help": "CSV, TSV, JSON (Lines), Parquet or Arrow."})
    validation_file: str | None = field(default=None, metadata={"help": "Examples that choose the best weights."})
    test_file: str | None = field(default=None, metadata={"help": "Examples that measure the chosen weights."})
    encoding: str | None = field(
        default=None,
        metadata={"help": "Encoding of the files, such as latin-1; by default UTF-8."},
    )
    delimiter: str | None = field(default=None, metadata={"help": "Column separator of CSV, such as ';'."})
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
        if not self.label_separator:
            raise UsageError("--label_separator must be a character or more, got nothing.")
        TextFormat(self.encoding, self.delimiter)
