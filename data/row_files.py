"""Reads the rows of CSV, TSV and JSON files as they are written, and the documents of text files.

The cells of CSV and TSV are strings. A reader that guesses types, as pandas does, turns 007 into 7 and NA into nothing,
or not, depending on the other rows.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..command_line import UsageError
from .text_files import TextFormat, csv_header, csv_records, open_text

# The readers of `find_files` whose files this module reads.
ROW_READERS = ("text", "csv", "tsv", "json")
# The number of rows of each file that show which columns it has, and which types they have.
_SAMPLED_ROWS = 256
# The number of characters of a JSON list to read together.
_CHARACTERS = 2**20

# What comes before the first item of a JSON list and before the next ones, and the end of an empty and of another list.
_STARTS = re.compile(r"\s*\[\s*"), re.compile(r"\s*,\s*")
_ENDS = re.compile(r"\s*\[\s*\]"), re.compile(r"\s*\]")

Row = dict[str, Any]


@dataclass(frozen=True)
class RowFiles:
    """Text, CSV, TSV or JSON files, in reading order. The rows of text files have the single column "text".

    Args:
        reader: The format of all files, one of `ROW_READERS`.
        files: The files.
        text_format: Their encoding, their delimiter, and what a document of a text file is.
    """

    reader: str
    files: list[Path]
    text_format: TextFormat

    def rows(self) -> Iterator[Row]:
        """Yield all rows.

        Raises:
            UsageError: If a file cannot be read. The message names the line.
        """
        return (row for file in self.files for _, row in self._read(file))

    def place(self, index: int) -> str:
        """Return the location of a row for messages, such as "line 3 of train.csv". `index` counts from 0."""
        return next(itertools.islice(self.places(), index, None))

    def places(self) -> Iterator[str]:
        """Yield the location of each row."""
        return (f"{place} of {file}" for file in self.files for place, _ in self._read(file))

    def samples(self) -> Iterator[tuple[Path, list[Row]]]:
        """Yield the first rows of each file that has rows."""
        for file in self.files:
            if rows := [row for _, row in itertools.islice(self._read(file), _SAMPLED_ROWS)]:
                yield file, rows

    def surrogate_error(self, name: str, cells: Sequence[Any], first: int = 0) -> str:
        """Return an error message for the first cell that has an unpaired surrogate, which JSON can contain.

        The first of the cells is in the row `first`.
        """
        for index, cell in enumerate(cells, first):
            try:
                json.dumps(cell, ensure_ascii=False).encode()
            except UnicodeEncodeError as error:
                half = ascii(error.object[error.start])
                return f"{self.place(index)} has {half} in the column {name}, half of a character; fix or remove it."
        raise AssertionError(f"The column {name} can be encoded.")

    def _read(self, file: Path) -> Iterator[tuple[str, Row]]:
        """Yield the rows of a file, each with its location in the file."""
        if self.reader == "text":
            return _text_rows(file, self.text_format)
        if self.reader == "json":
            return _json_rows(file, self.text_format.encoding)
        return _csv_rows(file, self.text_format, "\t" if self.reader == "tsv" else ",")


def _text_rows(file: Path, text_format: TextFormat) -> Iterator[tuple[str, Row]]:
    with open_text(file, text_format.encoding) as text:
        lines = (line.rstrip("\r\n") for line in text)
        for number, document in _documents(lines, text_format.sample_by):
            yield f"line {number}", {"text": document}


def _documents(lines: Iterable[str], sample_by: str) -> Iterator[tuple[int, str]]:
    """Yield the documents of a text file, each with the number of its first line."""
    if sample_by == "document":
        yield 1, "\n".join(lines)
        return
    numbered = enumerate(lines, 1)
    if sample_by == "line":
        yield from numbered
        return
    for is_blank, group in itertools.groupby(numbered, lambda each: not each[1].strip()):
        if not is_blank:
            numbers, paragraph = zip(*group, strict=True)
            yield numbers[0], "\n".join(paragraph)


def _csv_rows(file: Path, text_format: TextFormat, usual: str) -> Iterator[tuple[str, Row]]:
    delimiter = text_format.delimiter or usual
    records = csv_records(file, text_format.encoding, delimiter)
    header = csv_header(file, records, delimiter)
    for line, cells in records:
        if len(cells) != len(header):
            raise UsageError(
                f"line {line} of {file} has {len(cells)} cells, but the header has {len(header)}. Put cells that "
                f"contain {delimiter!r} in double quotes."
            )
        yield f"line {line}", dict(zip(header, cells, strict=True))


def _json_rows(file: Path, encoding: str | None) -> Iterator[tuple[str, Row]]:
    """Yield the objects of a JSON list or of JSON Lines."""
    with open_text(file, encoding) as text:
        start = next((line for line in iter(lambda: text.read(64), "") if line.strip()), "").lstrip()
    with open_text(file, encoding) as text:
        found = _json_items(file, text) if start.startswith("[") else _json_lines(file, text)
        for place, row in found:
            if not isinstance(row, dict):
                raise UsageError(f"{place} of {file} must be an object with the column names as keys, got {row!r}.")
            yield place, row


def _json_lines(file: Path, lines: Any) -> Iterator[tuple[str, Any]]:
    decode, is_first = _decoder().decode, True
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = decode(line)
        except (ValueError, RecursionError) as error:
            hint = ""
            is_cut = getattr(error, "pos", 0) >= len(line.rstrip())
            if is_first and is_cut and line.lstrip().startswith("{"):
                hint = " It must contain an object on each line, or one list of objects."
            raise UsageError(f"line {number} of {file} is not valid JSON: {error}.{hint}") from error
        is_first = False
        yield f"line {number}", row


def _json_items(file: Path, text: Any) -> Iterator[tuple[str, Any]]:
    """Decode the items of a list one by one, so that the list need not fit in memory."""
    decode = _decoder().raw_decode
    content, position, size, number = "", 0, _CHARACTERS, 1
    while True:
        if end := _ENDS[number > 1].match(content, position):
            if (content[end.end() :] + text.read()).strip():
                raise UsageError(f"{file} is not valid JSON: there is something after the end of the list.")
            return
        try:
            start = _STARTS[number > 1].match(content, position)
            item, stop = decode(content, start.end() if start else len(content))
        except (ValueError, RecursionError) as error:
            # The item may continue in what has not been read.
            if not (more := text.read(size)):
                raise UsageError(f"item {number} of {file} is not valid JSON: {error}.") from error
            content, position, size = content[position:] + more, 0, 2 * size
            continue
        yield f"item {number}", item
        position, size, number = stop, _CHARACTERS, number + 1


def _decoder() -> json.JSONDecoder:
    return json.JSONDecoder(object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> Row:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"an object has several values for {', '.join(twice)}")
    return found
