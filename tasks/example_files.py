"""Read example files, and find the line of a row, so that errors can name the line to fix.

`datasets` reads Parquet and Arrow, whose columns have types. CSV and JSON are read here instead, because `datasets`
does not keep line numbers, and guesses the type of a column from its cells, so that one bad cell changes all others.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..command_line import UsageError
from ..data.corpus import read_files
from ..data.corpus_files import find_files
from ..data.text_files import TextFormat, csv_header, csv_records, open_text

if TYPE_CHECKING:
    from .arguments import ExampleArguments


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

    def load(self) -> Any:
        """Read all rows into a `datasets.Dataset`. CSV cells become strings, and empty cells None.

        Raises:
            UsageError: If a file cannot be read, or there are no rows.
        """
        if self.reader in ("csv", "tsv", "json"):
            rows = self._as_dataset([row for _, row in self._rows()])
        else:
            rows = read_files(self.reader, self.files, self.named)
        if not len(rows):
            raise UsageError(f"{self.named} has no examples.")
        return rows

    def place(self, index: int) -> str:
        """Return the location of a row for messages, such as "line 3 of train.csv". `index` counts from 0."""
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
                    f"line {line} of {file} has {len(cells)} cells, but the header has {len(header)}. Put cells that "
                    f"contain {delimiter!r} in double quotes."
                )
            yield f"line {line}", {name: cell or None for name, cell in zip(header, cells, strict=True)}

    def _as_dataset(self, rows: list[dict[str, Any]]) -> Any:
        """Convert rows to columns. A column that mixes numbers and strings becomes a column of strings."""
        import pyarrow as pa
        from datasets import Dataset

        columns: dict[str, Any] = {}
        for name in dict.fromkeys(name for row in rows for name in row):
            cells = [row.get(name) for row in rows]
            try:
                columns[name] = pa.array(cells)
            except UnicodeEncodeError as error:
                raise UsageError(self._surrogate_error(name, cells)) from error
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
                if any(isinstance(cell, list | dict) for cell in cells):
                    print(f"{self.named}: the column {name} is ignored, because its values have different types.")
                else:
                    columns[name] = pa.array([None if cell is None else str(cell) for cell in cells])
        return Dataset(pa.table(columns))

    def _surrogate_error(self, name: str, cells: list[Any]) -> str:
        """Return an error message for the first cell that has an unpaired surrogate, which JSON can contain."""
        for index, cell in enumerate(cells):
            try:
                json.dumps(cell, ensure_ascii=False).encode()
            except UnicodeEncodeError as error:
                half = ascii(error.object[error.start])
                return f"{self.place(index)} has {half} in the column {name}, half of a character; fix or remove it."
        raise AssertionError(f"The column {name} can be encoded.")


def files_of(data: ExampleArguments, split: str) -> ExampleFiles | None:
    """Return the files that the user named for a split, or None.

    Raises:
        UsageError: If there is no such file, or its format has no columns.
    """
    if (named := data.file_of(split)) is None:
        return None
    argument, source = named
    found = find_files(source, argument)
    if found is None:
        raise UsageError(f"--{argument} {source}: there is no such file. {data.otherwise}".rstrip())
    reader, files = found
    if reader == "text":
        raise UsageError(f"--{argument} {source} must be CSV, TSV, JSON, Parquet or Arrow, with named columns.")
    return ExampleFiles(f"--{argument} {source}", reader, files, TextFormat(data.encoding, data.delimiter))


def place_of(data: ExampleArguments, split: str, index: int) -> str:
    """Return the location of a row of a split for messages. `index` counts from 0, as in `datasets`."""
    files = files_of(data, split)
    return f"row {index} (from 0) of the {split} split" if files is None else files.place(index)


def _json_rows(file: Path, text_format: TextFormat) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a JSON list or of JSON Lines, each with its place."""
    with open_text(file, text_format.encoding) as text:
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
                hint = " It must contain an object on each line, or one list of objects."
            else:
                hint = ""
            raise UsageError(f"line {number} of {file} is not valid JSON: {error}.{hint}") from error
        yield f"line {number}", _object(file, f"line {number}", row)


def _object(file: Path, place: str, row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UsageError(f"{place} of {file} must be an object with the column names as keys, got {row!r}.")
    return row
