"""The options of commands that read examples: the format of the files, and the names of the columns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ..command_line import UsageError
from ..data.text_files import TextFormat


@dataclass
class ExampleArguments:
    """How to read example files, and the names of their columns. A command adds the options that name the files.

    Attributes:
        otherwise: What the error about a missing file adds.
        may_lack_labels: Whether classification leaves out training rows without a label, instead of refusing them.
        kept_rows: The numbers of the training rows that were kept; None if these are all.

    Raises:
        UsageError: If a value is not allowed.
    """

    _argument_group_name = "examples"
    otherwise: ClassVar[str] = ""
    may_lack_labels: ClassVar[bool] = False

    encoding: str | None = field(
        default=None,
        metadata={"help": "Encoding of the files, such as latin-1; the default is UTF-8."},
    )
    delimiter: str | None = field(default=None, metadata={"help": "Column separator of CSV files, such as ';'."})
    text_column: str | None = field(
        default=None, metadata={"help": "Column with the texts, words, questions or messages."}
    )
    text_pair_column: str | None = field(default=None, metadata={"help": "Column with the second texts or contexts."})
    label_column: str | None = field(
        default=None, metadata={"help": "Column with the labels, scores, answers or replies."}
    )
    choice_columns: list[str] | None = field(
        default=None, metadata={"help": "Columns with the choices, or one column of lists."}
    )
    label_separator: str = field(default=",", metadata={"help": "Separator between the labels of a text."})
    doc_stride: int = field(default=64, metadata={"help": "Tokens that consecutive windows of a long context share."})

    def __post_init__(self) -> None:
        if self.doc_stride < 0:
            raise UsageError(f"--doc_stride must be at least 0, got {self.doc_stride}.")
        if not self.label_separator:
            raise UsageError("--label_separator must have at least one character, got an empty string.")
        TextFormat(self.encoding, self.delimiter)
        self.kept_rows: list[int] | None = None

    def file_of(self, split: str) -> tuple[str, str] | None:
        """Return the option that names the file of a split, without dashes, and the file; None without a file."""
        return None
