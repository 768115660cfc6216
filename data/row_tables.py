"""Converts rows of CSV, TSV and JSON files to Arrow tables, in which a column has the same type in all rows.

Strings stay strings. If the values of a JSON column have no type in common, it becomes a column of JSON (`arrow.json`),
in which 1, "1" and true remain different.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from ..command_line import UsageError
from .row_files import Row, RowFiles

# What Arrow raises if values do not have the type that they should, or none in common.
_MISMATCH = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError)


class RowTables:
    """Some columns of all rows.

    Args:
        files: The files.
        columns: The names of the columns. A row without one of them has null.
        varying: Those of them whose types may differ between tables.
    """

    def __init__(self, files: RowFiles, columns: Sequence[str], varying: Sequence[str]) -> None:
        self.files = files
        self._types = dict.fromkeys(columns, pa.string())
        if files.reader == "json":
            rows = [row for _, sample in files.samples() for row in sample]
            self._types |= {name: _common_type([row.get(name) for row in rows]) for name in columns}
        self._varying = varying

    def iter(self, batch_size: int) -> Iterator[pa.Table]:
        """Yield tables of `batch_size` rows, of which only the last one may have fewer.

        Raises:
            UsageError: If a row cannot be read, or has a value of another type than those before. The message names
                the line.
        """
        rows = self.files.rows()
        for first in itertools.count(0, batch_size):
            if not (batch := list(itertools.islice(rows, batch_size))):
                return
            yield pa.table({name: self._column(name, batch, first) for name in self._types})

    def _column(self, name: str, rows: list[Row], first: int) -> Any:
        cells, kind = [row.get(name) for row in rows], self._types[name]
        try:
            return _array(cells, kind)
        except UnicodeEncodeError as error:
            raise UsageError(self.files.surrogate_error(name, cells, first)) from error
        except _MISMATCH as error:
            if name in self._varying:
                return _array(cells, _JSON)
            index = next(index for index, cell in enumerate(cells) if not _can_be(cell, kind))
            raise UsageError(
                f"{self.files.place(first + index)} has {cells[index]!r} in the column {name}, but the first rows have "
                f"values of the type {kind}; give all of them the same type."
            ) from error


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """Concatenate tables with the same columns. A column whose type differs between tables becomes JSON."""
    for index, name in enumerate(tables[0].column_names):
        if len({table.column(index).type for table in tables}) > 1:
            tables = [table.set_column(index, name, _as_json(table.column(index))) for table in tables]
    return pa.concat_tables(tables)


def _as_json(column: pa.ChunkedArray) -> Any:
    return column if column.type == _JSON else _array(column.to_pylist(), _JSON)


def _common_type(cells: list[Any]) -> Any:
    """Return the type that all cells have in common, or the one of JSON."""
    try:
        found = _inferred(cells)
    except UnicodeEncodeError:
        return pa.string()
    except _MISMATCH:
        return _JSON
    # There may be texts in later rows.
    return pa.string() if pa.types.is_null(found) else found if _is_known(found) else _JSON


def _inferred(cells: list[Any]) -> Any:
    kinds = set(map(type, cells)) - {type(None)}
    if bool in kinds and len(kinds) > 1:
        raise pa.ArrowTypeError("Arrow would turn True into 1.0.")
    return pa.array(cells).type


def _is_known(kind: Any) -> bool:
    """Return whether nothing in a nested type is empty in all of the rows that it is from."""
    if pa.types.is_list(kind) or pa.types.is_struct(kind):
        inner = [kind.field(index).type for index in range(kind.num_fields)]
        return bool(inner) and all(map(_is_known, inner))
    return not pa.types.is_null(kind)


def _array(cells: list[Any], kind: Any) -> Any:
    if kind == _JSON:
        texts = [None if cell is None else json.dumps(cell, ensure_ascii=False) for cell in cells]
        return pa.ExtensionArray.from_storage(kind, pa.array(texts, pa.string()))
    if kind != pa.string() and not _fits(_inferred(cells), kind):
        raise pa.ArrowInvalid(f"The values do not have the type {kind}.")
    return pa.array(cells, kind)


def _fits(found: Any, wanted: Any) -> bool:
    """Return whether a conversion from one type to another loses nothing, or is an error where it would."""
    if found == wanted or pa.types.is_null(found):
        return True
    if pa.types.is_floating(wanted):
        return bool(pa.types.is_integer(found))
    if pa.types.is_list(found) and pa.types.is_list(wanted):
        return _fits(found.value_type, wanted.value_type)
    if pa.types.is_struct(found) and pa.types.is_struct(wanted):
        names = {field.name: field.type for field in wanted}
        return all(field.name in names and _fits(field.type, names[field.name]) for field in found)
    return False


def _can_be(cell: Any, kind: Any) -> bool:
    try:
        _array([cell], kind)
    except _MISMATCH:
        return False
    return True


_JSON = pa.json_(pa.string())
