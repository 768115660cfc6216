"""Reads the texts of text, JSON, CSV and TSV files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...command_line import UsageError
from ...data.corpus_files import find_files
from ...data.row_files import ROW_READERS, RowFiles
from ...data.text_files import TextFormat


def read_columns(
    name: str, option: str, columns: Sequence[str], encoding: str | None = None, delimiter: str | None = None
) -> list[tuple[Any, ...]]:
    """Read columns of a file.

    Args:
        name: The file.
        option: The option that named it, for errors.
        columns: The names of the columns.
        encoding: The encoding of the file.
        delimiter: The separator of a CSV file.

    Returns:
        The values of each row, in the order of the columns. Cells of CSV are strings.

    Raises:
        UsageError: If the file cannot be read, or has no such column, or no rows.
    """
    found = find_files(name, option)
    if found is None or found[0] not in ROW_READERS:
        problem = "there is no such file" if found is None else "must end in .jsonl, .json, .csv, .tsv or .txt"
        raise UsageError(f"--{option} {name}: {problem}.")
    files = RowFiles(*found, TextFormat(encoding, delimiter))
    rows = list(files.rows())
    if not rows:
        raise UsageError(f"--{option} {name} has no rows.")
    for index, row in enumerate(rows):
        for column in columns:
            if column not in row:
                raise UsageError(f"{files.place(index)} has no column {column}; it has {', '.join(row)}.")
    return [tuple(row[column] for column in columns) for row in rows]
