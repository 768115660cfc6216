"""Finds types for columns of Parquet files, since `datasets` converts later files to the types of the first one.

It would turn the number 1 into the text "1", a float64 into a float32, and a column that a file lacks into null.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from ..command_line import UsageError


def common_schema(files: list[Path], wanted: Iterable[tuple[str, str]]) -> Any:
    """Return a schema of some columns, with types that hold the values of all files without loss.

    Args:
        files: The files. Those that cannot be read are left to their reader, which reports them.
        wanted: Pairs of an option and the column that it names.

    Returns:
        The schema, or None if no file can be read.

    Raises:
        UsageError: If a file lacks a column or has it twice, or if files have a column of different types.
    """
    # The first type of each column that is not null, and its file.
    first: dict[str, tuple[Any, Path]] = {}
    fields: dict[str, Any] = {}
    for file in files:
        try:
            schema = parquet.read_schema(file)
        except (pa.ArrowException, OSError):
            continue
        for option, name in wanted:
            if name not in schema.names:
                columns = ", ".join(schema.names)
                raise UsageError(f"--{option} {name} is not a column of {file}; choose one of {columns}.")
            if schema.names.count(name) > 1:
                raise UsageError(f"--{option} {name} is the name of several columns of {file}; rename them.")
            found = schema.field(name).type
            field = pa.field(name, _plain(found))
            if not pa.types.is_null(found):
                other, place = first.setdefault(name, (field.type, file))
                if _kind(other) != _kind(field.type):
                    raise UsageError(
                        f"--{option} {name} has the type {found} in {file}, but {other} in {place}; give it the same "
                        "type in all files."
                    )
            before = pa.schema([fields.get(name, field)])
            merged = pa.unify_schemas([before, pa.schema([field])], promote_options="permissive")
            fields[name] = merged.field(name)
    return pa.schema(fields.values()) if fields else None


def _plain(kind: Any) -> Any:
    """Return the type of the values of a dictionary or view column, and any other type unchanged."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.large_string() if str(kind) == "string_view" else kind


def _kind(kind: Any) -> str:
    """Return the name of a type. Types of the same name are converted to each other without loss."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    if pa.types.is_integer(kind):
        return "integer"
    return "float" if pa.types.is_floating(kind) else str(kind)
