"""The options that name example files and their columns, and reading the files.

Errors name the line of the file to fix. Nothing here imports torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ...command_line import UsageError
from ...command_line.options import (
    DELIMITER,
    ENCODING,
    LABEL_COLUMN,
    TEXT_COLUMN,
    TEXT_PAIR_COLUMN,
    check_least,
    option,
)
from ...data.corpus_files import find_files
from ...data.dataset_loading import read_files
from ...data.row_files import ROW_READERS, Row, RowFiles
from ...data.text_files import TextFormat


@dataclass(frozen=True)
class ExampleFiles:
    """The files of one split, in reading order.

    Args:
        named: The argument that the user gave, for error messages.
        reader: The format of the files.
        files: At least one file.
        text_format: The encoding and the delimiter of text files.
    """

    named: str
    reader: str
    files: list[Path]
    text_format: TextFormat

    @property
    def rows(self) -> RowFiles | None:
        """The rows as they are written, or None if `datasets` reads the files."""
        return RowFiles(self.reader, self.files, self.text_format) if self.reader in ROW_READERS else None

    def load(self) -> Any:
        """Read all rows into a `datasets.Dataset`. CSV cells become strings.

        Raises:
            UsageError: If a file cannot be read, or there are no rows.
        """
        if self.rows is not None:
            rows = self._as_dataset(self.rows, list(self.rows.rows()))
        else:
            rows = read_files(self.reader, self.files, self.named)
        if not len(rows):
            raise UsageError(f"{self.named} has no examples.")
        return rows

    def places(self, indices: Iterable[int]) -> dict[int, str]:
        """Return the locations of several rows, for which the files are read once."""
        wanted = set(indices)
        if self.rows is not None:
            last = max(wanted, default=-1)
            found = enumerate(itertools.islice(self.rows.places(), last + 1))
            return {index: place for index, place in found if index in wanted}
        where = self.files[0] if len(self.files) == 1 else self.named
        return {index: f"row {index + 1} of {where}" for index in wanted}

    def _as_dataset(self, files: RowFiles, rows: list[Row]) -> Any:
        """Convert rows to columns. A column that mixes numbers and strings becomes a column of strings."""
        import pyarrow as pa
        from datasets import Dataset

        columns: dict[str, Any] = {}
        for name in dict.fromkeys(name for row in rows for name in row):
            cells = with_named_triples([row.get(name) for row in rows])
            kinds = set(map(type, cells)) - {type(None)}
            try:
                if bool in kinds and len(kinds) > 1:
                    raise pa.ArrowTypeError("Arrow would turn True into 1.0.")
                columns[name] = pa.array(cells)
            except UnicodeEncodeError as error:
                raise UsageError(files.surrogate_error(name, cells)) from error
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
                if any(isinstance(cell, list | dict) for cell in cells):
                    print(f"{self.named}: the column {name} is ignored, because its values have different types.")
                else:
                    columns[name] = pa.array([None if cell is None else str(cell) for cell in cells])
        return Dataset(pa.table(columns))


def with_named_triples(cells: list[Any]) -> list[Any]:
    """Convert GLiNER's lists of `[first word, last word, label]` to dicts, because Arrow has no lists of several types.

    Cells of any other form remain as they are.
    """
    lists = [cell for cell in cells if cell is not None]
    if not all(isinstance(cell, list) and all(map(_is_triple, cell)) for cell in lists) or not any(lists):
        return cells
    names = ("first", "last", "label")
    return [cell and [dict(zip(names, triple, strict=True)) for triple in cell] for cell in cells]


def _is_triple(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and list(map(type, value)) == [int, int, str]


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

    def files_of(self, split: str) -> ExampleFiles | None:
        """Return the files that the user named for a split, or None.

        Raises:
            UsageError: If there is no such file, or its format has no columns.
        """
        if (named := self.file_of(split)) is None:
            return None
        argument, source = named
        found = find_files(source, argument)
        if found is None:
            raise UsageError(f"--{argument} {source}: there is no such file. {self.otherwise}".rstrip())
        reader, files = found
        if reader == "text":
            raise UsageError(f"--{argument} {source} must be CSV, TSV, JSON, Parquet or Arrow, with named columns.")
        return ExampleFiles(f"--{argument} {source}", reader, files, TextFormat(self.encoding, self.delimiter))

    def place_of(self, split: str, index: int) -> str:
        """Return the location of a row of a split for messages. `index` counts from 0, as in `datasets`."""
        return self.places_of(split, [index])[index]

    def places_of(self, split: str, indices: Iterable[int]) -> dict[int, str]:
        """Return the locations of several rows of a split, for which its files are read once."""
        kept = self.kept_rows if split == "train" else None
        rows = {index: index if kept is None else kept[index] for index in indices}
        files = self.files_of(split)
        if files is None:
            return {index: f"row {row} (from 0) of the {split} split" for index, row in rows.items()}
        places = files.places(rows.values())
        return {index: places[row] for index, row in rows.items()}
