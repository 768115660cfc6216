"""The CSV file whose texts people label: each label is on the disk before the next one is given."""

from __future__ import annotations

import os
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..command_line import UsageError
from ..saving.whole_folders import check_writable, write_atomically
from .row_files import RowFiles
from .text_files import TextFormat, TextFormatError, csv_text, encoding_of, text_lines

TEXT, LABEL, REASON = "text", "label", "reason"
_LONGEST_NAME = 200
# Controls, line ends, and halves of characters. Some languages need invisible characters, such as joiners.
_NOT_IN_NAMES = frozenset(("Cc", "Zl", "Zp", "Cs"))


@contextmanager
def without_options() -> Iterator[None]:
    """Let errors about a text format say how to save the file, because no option describes it."""
    try:
        yield
    except TextFormatError as error:
        raise UsageError(f"{error.problem} Save it as UTF-8, and CSV with commas.") from error


class ConflictError(ValueError):
    """The file is no longer what the person who labels has seen."""


class LabelFile:
    """A CSV file with the columns `text` and `label`. All other columns are kept.

    Several threads may use it. If another program has changed labels in the file, these are kept, too.

    Args:
        file: The file.
        names: A text file with the name of a label in each line, or None for the labels in the file alone.

    Attributes:
        rows: The rows of the file.
        names: The names of the labels.

    Raises:
        UsageError: If a file cannot be read, or a column is missing.
        OSError: If the file cannot be written.
    """

    def __init__(self, file: str, names: str | None = None) -> None:
        # A link stays a link.
        self._file, self._lock = Path(file).resolve(), threading.Lock()
        if self._file.suffix.lower() != ".csv":
            raise UsageError(f"--label_file must end in .csv, got {file}.")
        if not self._file.is_file():
            raise UsageError(f"--label_file {file}: there is no such file.")
        self._stat = self._stat_of()
        self.rows = self._read()
        check_writable(self._file)
        self.names = [] if names is None else _read_names(Path(names))
        self._add_names()

    def set(self, row: int, label: str, before: str) -> None:
        """Label a text, and write the file.

        Args:
            row: The number of the row, from 0.
            label: The label, or an empty text for none.
            before: The label that the text had, as far as the person knows.

        Raises:
            ConflictError: If the file has changed since the person has seen it.
            ValueError: If there is no such row, or a label cannot have that name.
            OSError: If the file cannot be written. The label is not set then.
        """
        label = label.strip()
        if len(label) > _LONGEST_NAME or any(unicodedata.category(character) in _NOT_IN_NAMES for character in label):
            raise ValueError(f"A label has at most {_LONGEST_NAME} characters, all on one line.")
        with self._lock:
            self._update()
            if not 0 <= row < len(self.rows):
                raise ValueError(f"There is no row {row}; the file has {len(self.rows)} rows.")
            found = self.rows[row][LABEL]
            if found not in (before, label):
                raise ConflictError(
                    f"This text was labelled {found!r} in the meantime."
                    if found
                    else "This label was removed in the meantime."
                )
            rows = [*self.rows]
            rows[row] = {**rows[row], LABEL: label}
            write_atomically(self._file, [self._mark, csv_text(list(rows[0]), rows)])
            self.rows, self._stat = rows, self._stat_of()
            self._add_names()

    def update(self) -> None:
        """Read the labels that another program has written.

        Raises:
            ConflictError: If it has changed the texts.
            UsageError: If the file cannot be read.
            OSError: If there is no file.
        """
        with self._lock:
            self._update()

    def content(self) -> bytes:
        """Return the file."""
        with self._lock:
            return self._file.read_bytes()

    def _update(self) -> None:
        stat = self._stat_of()
        if stat == self._stat:
            return
        rows = self._read()
        if [row[TEXT] for row in rows] != [row[TEXT] for row in self.rows]:
            raise ConflictError("Another program has changed the texts of the file. Start the server again.")
        self.rows, self._stat = rows, stat
        self._add_names()

    def _add_names(self) -> None:
        found = sorted({row[LABEL] for row in self.rows} - {""})
        self.names = list(dict.fromkeys([*self.names, *found]))

    def _read(self) -> list[dict[str, str]]:
        self._mark = "\ufeff" if encoding_of([self._file]) == "utf-8-sig" else ""
        with without_options():
            rows = list(RowFiles("csv", [self._file], TextFormat()).rows())
        if not rows:
            raise UsageError(f"--label_file {self._file} has no rows.")
        for column in (TEXT, LABEL):
            if column not in rows[0]:
                raise UsageError(f"--label_file {self._file} has no column {column}; it has {', '.join(rows[0])}.")
        return [{**row, LABEL: row[LABEL].strip()} for row in rows]

    def _stat_of(self) -> tuple[int, int, int]:
        found = os.stat(self._file)
        return found.st_ino, found.st_size, found.st_mtime_ns


def _read_names(file: Path) -> list[str]:
    try:
        with without_options():
            names = text_lines(file)
    except OSError as error:
        raise UsageError(f"--label_names_file {file} cannot be read: {error}") from error
    if not names:
        raise UsageError(f"--label_names_file {file} contains no names; write one on each line.")
    return names
