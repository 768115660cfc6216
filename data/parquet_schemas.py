"""Checks that Parquet files have the same columns, since `datasets` converts later files to the types of the first one.

It would turn the number 1 into the text "1", and a column that a file lacks into null.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from ..command_line import UsageError


def check_schemas(files: list[Path], wanted: Iterable[tuple[str, str]]) -> None:
    """Check that all files have some columns, with the same types as in the first file.

    Args:
        files: The files. Those that cannot be read are left to their reader, which reports them.
        wanted: Pairs of an option and the column that it names. A column that the first file lacks is not checked.

    Raises:
        UsageError: If a file lacks a column, or has one of another type.
    """
    first: Any = None
    for file in files:
        try:
            schema = parquet.read_schema(file)
        except (pa.ArrowException, OSError):
            continue
        first = schema if first is None else first
        for option, name in wanted:
            if name not in first.names:
                continue
            if name not in schema.names:
                columns = ", ".join(schema.names)
                raise UsageError(f"--{option} {name} is not a column of {file}; choose one of {columns}.")
            before, found = first.field(name).type, schema.field(name).type
            if len({_kind(before), _kind(found), "null"}) > 2:
                raise UsageError(
                    f"--{option} {name} has the type {found} in {file}, but {before} in {files[0]}; give it the same "
                    "type in all files."
                )


def _kind(kind: Any) -> str:
    """Return the name of a type; that of similar types for those that are converted without a loss."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or str(kind) == "string_view":
        return "text"
    if pa.types.is_integer(kind):
        return "integer"
    return "float" if pa.types.is_floating(kind) else str(kind)
