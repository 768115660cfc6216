"""Sends chunks, results and errors between processes as Arrow tables with a single row.

Arrow IPC writes only the rows of a slice. Pickle would write the whole buffers behind it.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import ipc

from ...command_line import UsageError
from .engine import Result
from .results import Counts
from .rows import Chunk

# The errors of users, which are passed on in place of a result.
ERRORS = (ValueError, OSError)
# The classes that they have on the other side, where others may not exist: the first one that fits.
_CLASSES: tuple[type[Exception], ...] = (UsageError, OSError, ValueError)
_SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("facts", pa.string()),
        ("good", pa.large_binary()),
        ("columns", pa.large_binary()),
        ("texts", pa.large_binary()),
        ("results", pa.large_binary()),
    ]
)


def packed(item: Chunk | Result | int | Exception) -> pa.Table:
    """Return a table for a chunk, a result, the number of all rows, or one of `ERRORS`."""
    if isinstance(item, Chunk):
        texts = {str(index): _encoded(column) for index, column in enumerate(item.texts)}
        return _table("chunk", _facts_of(item), item, texts=pa.table(texts))
    if isinstance(item, Result):
        facts = {**_facts_of(item.chunk), "counts": item.counts.to_json()}
        columns = {str(index): column for index, column in enumerate(item.columns)}
        return _table("result", facts, item.chunk, results=pa.table(columns))
    if isinstance(item, Exception):
        name = next(each.__name__ for each in _CLASSES if isinstance(item, each))
        return _table("error", {"error": name, "message": str(item)})
    return _table("count", {"count": item})


def unpacked(table: pa.Table) -> list[Chunk | Result | int | Exception]:
    """Return what `packed` has put into each row of a table."""
    return [_unpacked(row) for row in table.to_pylist()]


def _unpacked(row: dict[str, Any]) -> Chunk | Result | int | Exception:
    facts = json.loads(row["facts"])
    if row["kind"] == "count":
        return int(facts["count"])
    if row["kind"] == "error":
        return next(each for each in _CLASSES if each.__name__ == facts["error"])(facts["message"])
    texts = [] if row["texts"] is None else [_decoded(column) for column in _read(row["texts"]).columns]
    chunk = Chunk(
        facts["shard"],
        facts["first"],
        facts["ends_shard"],
        _read(row["columns"]),
        np.frombuffer(row["good"], bool),
        texts,
        Counter(facts["bad"]),
    )
    if row["kind"] == "chunk":
        return chunk
    columns = [column.combine_chunks() for column in _read(row["results"]).columns]
    return Result(chunk, columns, Counts.from_json(facts["counts"]))


def _facts_of(chunk: Chunk) -> dict[str, Any]:
    return {"shard": chunk.shard, "first": chunk.first, "ends_shard": chunk.ends_shard, "bad": chunk.bad}


def _table(
    kind: str,
    facts: dict[str, Any],
    chunk: Chunk | None = None,
    texts: pa.Table | None = None,
    results: pa.Table | None = None,
) -> pa.Table:
    row = {
        "kind": kind,
        "facts": json.dumps(facts),
        "good": None if chunk is None else chunk.good.tobytes(),
        "columns": None if chunk is None else _written(chunk.columns),
        "texts": None if texts is None else _written(texts),
        "results": None if results is None else _written(results),
    }
    return pa.Table.from_pylist([row], schema=_SCHEMA)


def _written(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _read(content: bytes) -> pa.Table:
    return ipc.open_stream(content).read_all()


def _encoded(texts: list[str]) -> pa.Array:
    # JSON may contain lone surrogates, which the tokenizer rejects as it does without Ray.
    return pa.array([text.encode("utf-8", "surrogatepass") for text in texts], pa.large_binary())


def _decoded(column: pa.ChunkedArray) -> list[str]:
    return [content.decode("utf-8", "surrogatepass") for content in column.to_pylist()]
