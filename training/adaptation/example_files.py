"""Rows of example files, each with its place, so that an error can name the line that the user has to mend.

`datasets` reads Parquet and Arrow, whose columns have types. It does not read CSV and JSON here: it guesses the type of
a column, so that one bad cell changes all the others, and it does not keep the lines.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...command_line import UsageError
from ...data.corpus import find_files, read_files
from ...data.text_files import TextFormat, csv_header, csv_records, opened

if TYPE_CHECKING:
    from .data_arguments import TaskDataArguments


@dataclass(frozen=True)
class ExampleFiles:
    """The files of one split, in the order in which they are read.

    Args:
        named: what the user asked for, for errors.
        reader: the kind of the files.
        files: one or more.
        text_format: how their bytes become cells.
    """

    named: str
    reader: str
    files: list[Path]
    text_format: TextFormat

    def load(self) -> Any:
        """Reads all rows into a `datasets.Dataset`. In CSV, a cell is a text, and None if it is empty.

        Raises:
            UsageError: if a file cannot be read, or there are no rows.
        """
        if self.reader in ("csv", "tsv", "json"):
            rows = self._as_dataset([row for _, row in self._rows()])
        else:
            rows = read_files(self.reader, self.files, self.named)
        if not len(rows):
            raise UsageError(f"{self.named} holds no examples.")
        return rows

    def place(self, index: int) -> str:
        """Where the user finds a row, such as "line 3 of train.csv"; `index` counts the rows from 0."""
        if self.reader in ("csv", "tsv", "json"):
            return next(itertools.islice(self._rows(), index, None))[0]
        return f"row {index + 1} of {self.files[0] if len(self.files) == 1 else self.named}"

    def _rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        read = _json_rows if self.reader == "json" else self._csv_rows
        for file in self.files:
            for place, row in read(file, self.text_format):
                yield f"{place} of {file}", row

    def _csv_rows(self, file: Path, text_format: TextFormat) -> Iterator[tuple[str, dict[str, Any]]]:
        delimiter = text_format.delimiter or ("\t" if self.reader == "tsv" else ",")
        records = csv_records(file, text_format.encoding, delimiter)
        header = csv_header(file, records, delimiter)
        for line, cells in records:
            if len(cells) != len(header):
                raise UsageError(
                    f"line {line} of {file} has {len(cells)} cells where its header names {len(header)}. A cell "
                    f"with {delimiter!r} in it must stand in double quotes."
                )
            yield f"line {line}", {name: cell or None for name, cell in zip(header, cells, strict=True)}

    def _as_dataset(self, rows: list[dict[str, Any]]) -> Any:
        """The rows as columns. A column that holds numbers and texts becomes one of texts."""
        import pyarrow as pa
        from datasets import Dataset

        columns: dict[str, Any] = {}
        for name in dict.fromkeys(name for row in rows for name in row):
            cells = [row.get(name) for row in rows]
            try:
                columns[name] = pa.array(cells)
            except UnicodeEncodeError as error:
                raise UsageError(self._no_character(name, cells)) from error
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
                if any(isinstance(cell, list | dict) for cell in cells):
                    print(f"{self.named}: the column {name} is left out, since its rows hold values of several types.")
                else:
                    columns[name] = pa.array([None if cell is None else str(cell) for cell in cells])
        return Dataset(pa.table(columns))

    def _no_character(self, name: str, cells: list[Any]) -> str:
        """Says which cell has half of a character, as JSON can spell it."""
        for index, cell in enumerate(cells):
            try:
                json.dumps(cell, ensure_ascii=False).encode()
            except UnicodeEncodeError as error:
                half = ascii(error.object[error.start])
                return f"{self.place(index)} has {half} in the column {name}, half of a character; mend or remove it."
        raise AssertionError(f"The column {name} can be encoded.")


def files_of(data: TaskDataArguments, split: str) -> ExampleFiles | None:
    """The files that the user named for a split, None if there are none.

    Raises:
        UsageError: if there is no such file, or it is of no kind that has columns.
    """
    argument = f"{split}_file"
    if (source := getattr(data, argument)) is None:
        return None
    found = find_files(source, argument)
    if found is None:
        raise UsageError(
            f"--{argument} {source}: there is no such file; a dataset of the Hub is given by --dataset_name."
        )
    reader, files = found
    if reader == "text":
        raise UsageError(f"--{argument} {source} must be CSV, TSV, JSON, Parquet or Arrow, whose columns have names.")
    return ExampleFiles(f"--{argument} {source}", reader, files, TextFormat(data.encoding, data.delimiter))


def place_of(data: TaskDataArguments, split: str, index: int) -> str:
    """Where the user finds a row of a split; `index` counts the rows from 0, as `datasets` does."""
    files = files_of(data, split)
    return f"row {index} (from 0) of the {split} split" if files is None else files.place(index)


def _json_rows(file: Path, text_format: TextFormat) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a list, or those on the lines of a file."""
    with opened(file, text_format.encoding) as text:
        if not (start := next((line for line in text if line.strip()), "")).lstrip().startswith("["):
            text.seek(0)
            yield from _json_lines(file, text, start)
            return
        text.seek(0)
        try:
            found = json.load(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise UsageError(f"{file} is not valid JSON: {error}.") from error
    for number, row in enumerate(found, 1):
        yield f"item {number}", _object(file, f"item {number}", row)


def _json_lines(file: Path, lines: Any, start: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            if line == start and start.lstrip().startswith("{"):
                hint = " It must hold an object on each line, or one list of objects."
            else:
                hint = ""
            raise UsageError(f"line {number} of {file} is not valid JSON: {error}.{hint}") from error
        yield f"line {number}", _object(file, f"line {number}", row)


def _object(file: Path, place: str, row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UsageError(f"{place} of {file} must be an object, whose keys name the columns, got {row!r}.")
    return row
