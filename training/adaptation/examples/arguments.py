"""The options of `sequence-encoder adapt` for the examples and their columns."""

from __future__ import annotations

from dataclasses import dataclass, field

from ....command_line import UsageError
from ....data.text_files import TextFormat


@dataclass
class TaskDataArguments:
    """The source of the examples, and the names of their columns.

    Raises:
        UsageError: If a value is not allowed.
    """

    _argument_group_name = "examples"

    train_file: str | None = field(default=None, metadata={"help": "CSV, TSV, JSON (Lines), Parquet or Arrow."})
    validation_file: str | None = field(default=None, metadata={"help": "Examples that select the best weights."})
    test_file: str | None = field(default=None, metadata={"help": "Examples that evaluate the selected weights."})
    encoding: str | None = field(
        default=None,
        metadata={"help": "Encoding of the files, such as latin-1; the default is UTF-8."},
    )
    delimiter: str | None = field(default=None, metadata={"help": "Column separator of CSV files, such as ';'."})
    dataset_name: str | None = field(default=None, metadata={"help": "Dataset on the Hub to use instead of files."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of that dataset."})
    validation_split: str = field(default="validation", metadata={"help": "Validation split of that dataset."})
    test_split: str = field(default="test", metadata={"help": "Test split of that dataset."})
    validation_share: float = field(default=0.1, metadata={"help": "Share held out if there is no validation data."})
    text_column: str | None = field(default=None, metadata={"help": "Column with the texts, words or questions."})
    text_pair_column: str | None = field(default=None, metadata={"help": "Column with the second texts or contexts."})
    label_column: str | None = field(default=None, metadata={"help": "Column with the labels, scores or answers."})
    choice_columns: list[str] | None = field(
        default=None, metadata={"help": "Columns with the choices, or one column of lists."}
    )
    label_separator: str = field(default=",", metadata={"help": "Separator between the labels of a text."})
    doc_stride: int = field(default=64, metadata={"help": "Tokens that consecutive windows of a long context share."})

    def __post_init__(self) -> None:
        if (self.train_file is None) == (self.dataset_name is None):
            given = "neither" if self.train_file is None else "both"
            raise UsageError(f"exactly one of --train_file and --dataset_name is needed, got {given}.")
        if not 0 < self.validation_share < 1:
            raise UsageError(f"--validation_share must be between 0 and 1, got {self.validation_share}.")
        if self.doc_stride < 0:
            raise UsageError(f"--doc_stride must be at least 0, got {self.doc_stride}.")
        if not self.label_separator:
            raise UsageError("--label_separator must have at least one character, got an empty string.")
        TextFormat(self.encoding, self.delimiter)
