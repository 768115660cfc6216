"""How the bytes of text files become characters and cells: encodings, byte order marks, delimiters.

Nothing is guessed: a file is UTF-8 unless its byte order mark or the user says otherwise.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import lzma
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

import fsspec

from ..command_line import UsageError

# UTF-32 first: its mark begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# What may stand between the columns of a CSV file, as a user writes it.
_DELIMITERS = {",": ",", ";": ";", "\t": r"\t", "|": "|"}
# What a damaged compressed file raises.
_DAMAGE = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error)


@dataclass(frozen=True)
class TextFormat:
    """What the user says about text files.

    Args:
        encoding: their encoding, None for that of the byte order mark, or UTF-8 if there is none.
        delimiter: the character between two cells of a CSV file, None for that of the kind of the file.

    Raises:
        UsageError: for an unknown encoding, or a delimiter that is not one character.
    """

    encoding: str | None = None
    delimiter: str | None = None

    def __post_init__(self) -> None:
        if self.encoding is not None:
            try:
                "".encode(self.encoding)
            except LookupError as error:
                raise UsageError(
                    f"--encoding {self.encoding} is unknown; use one such as utf-8, utf-16, latin-1 or cp1252."
                ) from error
        if self.delimiter is not None:
            # A shell passes \t on as two characters.
            delimiter = {r"\t": "\t", "tab": "\t"}.get(self.delimiter, self.delimiter)
            if len(delimiter) != 1 or delimiter in '"\r\n':
                raise UsageError(f"--delimiter must be one character, such as ';' or '\\t', got {self.delimiter!r}.")
            object.__setattr__(self, "delimiter", delimiter)


def encoding_of(files: Iterable[Path], encoding: str | None = None) -> str:
    """The encoding that the user gave, or that of the byte order marks of the files, or else UTF-8.

    Raises:
        UsageError: if the files have several.
    """
    # UTF-8 may have a mark even where the user names it.
    if encoding is not None and codecs.lookup(encoding).name != "utf-8":
        return encoding
    found = {file: _marked(file) for file in files}
    kinds = set(found.values())
    if kinds <= {"utf-8", "utf-8-sig"}:
        # It reads files with and without the mark.
        return "utf-8-sig" if "utf-8-sig" in kinds else "utf-8"
    if len(kinds) > 1:
        named = {kind: next(file for file, each in found.items() if each == kind) for kind in sorted(kinds)}
        shown = ", ".join(f"{file} is {kind}" for kind, file in named.items())
        raise UsageError(f"the files must have one encoding: {shown}.")
    return kinds.pop()


@contextlib.contextmanager
def opened(file: Path, encoding: str | None = None) -> Iterator[TextIO]:
    """Opens a text file, which may be compressed, with its lines as they are.

    Raises:
        UsageError: while it is read, if it is damaged, or a byte is not of its encoding.
    """
    encoding = encoding_of([file], encoding)
    try:
        with fsspec.open(str(file), "rt", compression=_compression(file), encoding=encoding, newline="") as text:
            yield cast(TextIO, text)
    except UnicodeError as error:
        raise UsageError(undecodable(file, encoding) or f"{file} is not {encoding}: {error}.") from error
    except _DAMAGE as error:
        raise UsageError(f"{file} cannot be read: {error}") from error


def csv_records(file: Path, encoding: str | None, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Reads the records of a CSV file that are not empty, each with the line on which it begins.

    Raises:
        UsageError: for quotes that do not match.
    """
    # A cell may hold a whole book.
    csv.field_size_limit(2**31 - 1)
    with opened(file, encoding) as text:
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        line = 1
        try:
            for cells in reader:
                if cells:
                    yield line, cells
                line = reader.line_num + 1
        except csv.Error as error:
            raise UsageError(
                f"the row that begins on line {line} of {file} is not valid CSV: {error}. A cell that begins with a "
                "double quote must end with one, and those inside must be doubled."
            ) from error


def csv_header(file: Path, records: Iterator[tuple[int, list[str]]], delimiter: str) -> list[str]:
    """Takes the first of the records as the names of the columns; one without a name is named as by pandas.

    Raises:
        UsageError: if there is none, if two names are the same, or if another delimiter separates them.
    """
    _, cells = next(records, (1, []))
    names = [name.strip() or f"Unnamed: {number}" for number, name in enumerate(cells)]
    if not any(cell.strip() for cell in cells):
        raise UsageError(f"{file} has no header: its first line must name the columns.")
    if len(cells) == 1 and (others := [each for each in _DELIMITERS if each != delimiter and each in cells[0]]):
        raise UsageError(
            f"{file} has the single column {cells[0]!r}, which looks like several: add --delimiter "
            f"'{_DELIMITERS[others[0]]}'."
        )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"{file} has several columns of the name {', '.join(twice)}; rename or remove all but one.")
    return names


def undecodable(file: Path, encoding: str) -> str | None:
    """Says where a file is not of its encoding, and what to do about it; None if no such place is found."""
    # Lines are decoded one by one, since a decoder counts from where its last piece began.
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
                return f"{file} is not {name}: {place}. Name its encoding, such as --encoding {other}."
            offset += len(line)
    return None


def _bytes(file: Path) -> Any:
    return cast(BinaryIO, fsspec.open(str(file), "rb", compression=_compression(file)))


def _compression(file: Path) -> str | None:
    """What a file is compressed with.

    Raises:
        UsageError: if nothing that is installed reads it.
    """
    name = fsspec.utils.infer_compression(str(file))
    if name is None and file.suffix == ".zst":
        raise UsageError(f"{file} is compressed with Zstandard: pip install zstandard.")
    return cast("str | None", name)


def _marked(file: Path) -> str:
    start = b""
    # Whoever reads it says what is wrong.
    with contextlib.suppress(*_DAMAGE), _bytes(file) as content:
        start = content.read(4)
    return next((name for mark, name in _MARKS.items() if start.startswith(mark)), "utf-8")
