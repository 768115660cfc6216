"""The options of commands that read examples: the format of the files, and the names of the columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..command_line import UsageError
from ..command_line.options import DELIMITER, ENCODING, LABEL_COLUMN, TEXT_COLUMN, TEXT_PAIR_COLUMN, check_least, option
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

    encoding: str | None = option(default=None, **ENCODING)
    delimiter: str | None = option(default=None, **DELIMITER)
    text_column: str | None = option(default=None, **TEXT_COLUMN)
    text_pair_column: str | None = option(default=None, **TEXT_PAIR_COLUMN)
    label_column: str | None = option(default=None, **LABEL_COLUMN)
    choice_columns: list[str] | None = option("Columns with the choices, or one column with lists of choices.", None)
    label_separator: str = option("Character between the labels of a text.", ",", metavar="CHARACTER")
    doc_stride: int = option("Number of tokens that two windows of a long context share.", 64)

    def __post_init__(self) -> None:
        check_least(self, doc_stride=0)
        if not self.label_separator:
            raise UsageError("--label_separator must have at least one character, got an empty string.")
        TextFormat(self.encoding, self.delimiter)
        self.kept_rows: list[int] | None = None

    def file_of(self, split: str) -> tuple[str, str] | None:
        """Return the option that names the file of a split, without dashes, and the file; None without a file."""
        return None
