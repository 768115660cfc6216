"""Decodes text files and parses and writes CSV: encodings, byte order marks and delimiters.

Nothing is guessed: a file is UTF-8 unless its byte order mark or the user says otherwise.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import lzma
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, TextIO, cast

import fsspec

from ..command_line import UsageError

# UTF-32 comes first, because its mark starts with the mark of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# The common CSV delimiters, as a user types them.
_DELIMITERS = {",": ",", ";": ";", "\t": r"\t", "|": "|"}
# The errors that damaged compressed files raise.
_DAMAGE = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error)


class TextFormatError(UsageError):
    """A text file does not have the expected encoding or delimiter.

    Args:
        problem: The problem.
        advice: The option that solves it, if the command has such options.

    Attributes:
        problem: The problem.
    """

    def __init__(self, problem: str, advice: str) -> None:
        super().__init__(f"{problem} {advice}")
        self.problem = problem


@dataclass(frozen=True)
class TextFormat:
    """The user's options for text files.

    Args:
        encoding: The encoding of the files. Defaults to the one of their byte order mark, or else UTF-8.
        delimiter: The character that separates the cells of a CSV file. Defaults to a comma, or a tab in TSV files.
        sample_by: What a document is in a text file: a "line", a "paragraph" or the whole "document".

    Raises:
        UsageError: If the encoding is unknown, or the delimiter is not a single character.
    """

    encoding: str | None = None
    delimiter: str | None = None
    sample_by: str = "line"

    def __post_init__(self) -> None:
        if self.encoding is not None:
            try:
                "".encode(self.encoding)
            except LookupError as error:
                raise UsageError(
                    f"--encoding must be an encoding such as utf-8, utf-16, latin-1 or cp1252, got {self.encoding}."
                ) from error
        if self.delimiter is not None:
            # A shell passes \t on as two characters.
            delimiter = {r"\t": "\t", "tab": "\t"}.get(self.delimiter, self.delimiter)
            if len(delimiter) != 1 or delimiter in '"\r\n':
                raise UsageError(f"--delimiter must be one character, such as ';' or '\\t', got {self.delimiter!r}.")
            object.__setattr__(self, "delimiter", delimiter)


def encoding_of(files: Iterable[Path], encoding: str | None = None) -> str:
    """Return the encoding that the user gave, or the one that byte order marks declare, or else UTF-8.

    Raises:
        UsageError: If the byte order marks differ.
    """
    # Even if the user names UTF-8, a file may start with a byte order mark.
    if encoding is not None and codecs.lookup(encoding).name != "utf-8":
        return encoding
    found = {file: _marked(file) for file in files}
    kinds = set(found.values())
    if kinds <= {"utf-8", "utf-8-sig"}:
        # "utf-8-sig" reads files with and without a byte order mark.
        return "utf-8-sig" if "utf-8-sig" in kinds else "utf-8"
    if len(kinds) > 1:
        named = {kind: next(file for file, each in found.items() if each == kind) for kind in sorted(kinds)}
        shown = ", ".join(f"{file} is {kind}" for kind, file in named.items())
        raise UsageError(f"all files must have the same encoding, but {shown}.")
    return kinds.pop()


@contextlib.contextmanager
def open_text(file: Path, encoding: str | None = None) -> Iterator[TextIO]:
    """Open a text file, which may be compressed, without translating its line ends.

    Raises:
        UsageError: While the file is read, if it is damaged or cannot be decoded.
    """
    encoding = encoding_of([file], encoding)
    try:
        with fsspec.open(str(file), "rt", compression=_compression(file), encoding=encoding, newline="") as text:
            yield cast(TextIO, text)
    except UnicodeError as error:
        raise _decoding_error(file, encoding) or UsageError(f"{file} is not {encoding}: {error}.") from error
    except _DAMAGE as error:
        raise UsageError(f"{file} cannot be read: {error}") from error


def text_lines(file: Path, encoding: str | None = None) -> list[str]:
    """Return the lines of a text file that are not empty, without the space around them.

    Raises:
        UsageError: If the file is damaged or cannot be decoded.
    """
    with open_text(file, encoding) as lines:
        return [text for line in lines if (text := line.strip())]


def csv_records(file: Path, encoding: str | None, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the non-empty records of a CSV file, each with the number of its first line.

    Raises:
        UsageError: If the quotes in the file do not match.
    """
    # A cell can contain a whole book.
    csv.field_size_limit(2**31 - 1)
    with open_text(file, encoding) as text:
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        line = 1
        try:
            for cells in reader:
                if cells:
                    yield line, cells
                line = reader.line_num + 1
        except csv.Error as error:
            raise UsageError(
                f"the row that starts on line {line} of {file} is not valid CSV: {error}. A cell that starts with a "
                "double quote must end with one, and double quotes inside it must be doubled."
            ) from error


def csv_header(file: Path, records: Iterator[tuple[int, list[str]]], delimiter: str) -> list[str]:
    """Read the column names from the first record, and name columns without a name as pandas does.

    Raises:
        UsageError: If there is no header, two columns have the same name, or the header uses another delimiter.
    """
    _, cells = next(records, (1, []))
    names = [name.strip() or f"Unnamed: {number}" for number, name in enumerate(cells)]
    if not any(cell.strip() for cell in cells):
        raise UsageError(f"{file} has no header: its first line must name the columns.")
    if len(cells) == 1 and (others := [each for each in _DELIMITERS if each != delimiter and each in cells[0]]):
        shown = _DELIMITERS[others[0]]
        problem = (
            f"{file} has the single column {cells[0]!r}, which looks like several columns with '{shown}' between them."
        )
        raise TextFormatError(problem, f"Pass --delimiter '{shown}'.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"{file} has several columns named {', '.join(twice)}; rename or remove all but one.")
    return names


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """Return rows as the content of a CSV file."""
    lines: list[str] = []
    # Before Python 3.13, the writer only quotes the line ends that are in its own.
    writer = csv.DictWriter(SimpleNamespace(write=lines.append), columns, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    return "".join(f"{line[:-2]}\n" for line in lines)


def _decoding_error(file: Path, encoding: str) -> TextFormatError | None:
    """Return the error that says where a file cannot be decoded, or None if no such place is found."""
    # Lines are decoded one by one, because an error of an incremental decoder counts from its last chunk.
    if not "a\n".encode(encoding).endswith(b"a\n"):
        return None
    name, offset = codecs.lookup(encoding).name, 0
    with contextlib.suppress(*_DAMAGE), _bytes(file) as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError as error:
                place = f"byte {offset + error.start} (line {number}) is 0x{line[error.start]:02x}"
                other = "latin-1" if name.startswith("utf") else "utf-8"
                return TextFormatError(
                    f"{file} is not {name}: {place}.", f"Pass its encoding, such as --encoding {other}."
                )
            offset += len(line)
    return None


def _bytes(file: Path) -> Any:
    return cast(BinaryIO, fsspec.open(str(file), "rb", compression=_compression(file)))


def _compression(file: Path) -> str | None:
    """Return the compression of a file, as fsspec names it."""
    name = fsspec.utils.infer_compression(str(file))
    if name is None and file.suffix == ".zst":
        raise UsageError(f"{file} is compressed with Zstandard: pip install zstandard.")
    return cast("str | None", name)


def _marked(file: Path) -> str:
    start = b""
    # The caller reads the file next and reports any damage.
    with contextlib.suppress(*_DAMAGE), _bytes(file) as content:
        start = content.read(4)
    return next((name for mark, name in _MARKS.items() if start.startswith(mark)), "utf-8")
