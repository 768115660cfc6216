"""Reads the texts of a file: JSON Lines, CSV or TSV."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..command_line import UsageError
from ..data.text_files import csv_header, csv_records, open_text

_DELIMITERS = {".csv": ",", ".tsv": "\t"}


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
    file = Path(name)
    suffixes = [suffix for suffix in file.suffixes if suffix in (".jsonl", ".json", *_DELIMITERS)]
    if not file.is_file() or not suffixes:
        problem = "must end in .jsonl, .json, .csv or .tsv" if file.is_file() else "there is no such file"
        raise UsageError(f"--{option} {name}: {problem}.")
    if suffixes[-1] in _DELIMITERS:
        records = csv_records(file, encoding, delimiter or _DELIMITERS[suffixes[-1]])
        header = csv_header(file, records, delimiter or _DELIMITERS[suffixes[-1]])
        rows = [(f"line {line}", dict(zip(header, cells, strict=False))) for line, cells in records]
    else:
        rows = _json_rows(file, encoding)
    if not rows:
        raise UsageError(f"--{option} {name} has no rows.")
    for place, row in rows:
        for column in columns:
            if column not in row:
                raise UsageError(f"{place} of {name} has no column {column}; it has {', '.join(row)}.")
    return [tuple(row[column] for column in columns) for _, row in rows]


def _json_rows(file: Path, encoding: str | None) -> list[tuple[str, dict[str, Any]]]:
    with open_text(file, encoding) as text:
        content = text.read()
    try:
        if content.lstrip().startswith("["):
            found = [(f"item {number}", row) for number, row in enumerate(json.loads(content), 1)]
        else:
            # JSON strings may contain other line separators.
            lines = enumerate(content.split("\n"), 1)
            found = [(f"line {number}", json.loads(line)) for number, line in lines if line.strip()]
    except json.JSONDecodeError as error:
        raise UsageError(f"{file} is not valid JSON: {error}.") from error
    for place, row in found:
        if not isinstance(row, dict):
            raise UsageError(f"{place} of {file} must be an object with the column names as keys, got {row!r}.")
    return found
