"""Reads the rows of a corpus, shard by shard, and finds those that are not texts.

Shapes: N rows of a chunk, G of them with a text.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from ...command_line import UsageError
from ...data.corpus import TextArguments, open_rows
from ...data.corpus_files import DOCUMENTATION, find_files
from ...data.row_estimates import estimate_rows
from ...data.row_tables import RowTables, joined
from .arguments import RowArguments, name_and_type
from .number_columns import NotANumber, as_numbers

# Number of rows to compute together: sorting many texts by length makes full batches of similar texts.
CHUNK_ROWS = 16_384
# A chunk ends earlier if its texts have this many characters, so that its tokens fit in memory.
CHUNK_CHARACTERS = 2**25
# Number of rows to read together. Shards and chunks end where such a batch ends, counted from the start of the shard.
_BATCH_ROWS = 256

NULL, NOT_TEXT, NOT_UTF8, TOO_LONG, EMPTY = "null", "not a text", "not valid UTF-8", "too long", "empty"


@dataclass
class Chunk:
    """Consecutive rows of a shard.

    Attributes:
        shard: The number of the shard.
        first: The number of the first row in the corpus.
        ends_shard: Whether no more rows of a full shard follow.
        columns: (N) the id and the copied columns.
        good: (N,) bool, whether a row has a text.
        texts: (G) for each column of texts, the texts of good rows.
        bad: The number of bad rows of each kind.
    """

    shard: int
    first: int
    ends_shard: bool
    columns: pa.Table
    good: np.ndarray
    texts: list[list[str]]
    bad: Counter[str] = field(default_factory=Counter)

    def name(self, index: int) -> str:
        """Return the name of a good row by its index, for errors."""
        return f"row {self.first + int(np.flatnonzero(self.good)[index])} of the corpus"


class CorpusRows:
    """The rows of a corpus, in order.

    Args:
        corpus: The options that choose the corpus.
        rows: What to do with its rows.
        pair_column: The column with second texts, if there is one.
        empty_is_bad: Whether a text without characters other than spaces is a bad row.

    Attributes:
        schema: The id and the copied columns, with the types of the first rows.
        count: The number of rows, once `chunks` has yielded all of them.
    """

    def __init__(
        self,
        corpus: TextArguments,
        rows: RowArguments,
        pair_column: str | None = None,
        empty_is_bad: bool = False,
    ) -> None:
        self.corpus, self.rows, self.pair_column, self.empty_is_bad = corpus, rows, pair_column, empty_is_bad
        self.text_columns = [corpus.text_column, *([] if pair_column is None else [pair_column])]
        self.count: int | None = None
        self.schema = pa.schema([])
        self._stream: Any = None
        options = {"text_column": corpus.text_column, "text_pair_column": pair_column}
        self._wanted = [(option, name) for option, name in options.items() if name is not None]
        self._copied = [] if rows.id_column is None else [("id_column", *name_and_type(rows.id_column))]
        self._copied += [("columns", *name_and_type(column)) for column in rows.columns]
        self._wanted += [(option, name) for option, name, _ in self._copied]

    def closed(self) -> CorpusRows:
        """Return the same rows, not open yet, for another process."""
        return CorpusRows(self.corpus, self.rows, self.pair_column, self.empty_is_bad)

    def open(self, scratch: Path) -> None:
        """Open the corpus.

        Args:
            scratch: A folder that keeps the documentation.

        Raises:
            UsageError: If there are no rows, a column does not exist, or the text column has no texts.
        """
        as_written = [name for _, name, kind in self._copied if kind is None]
        numbers = [name for _, name, kind in self._copied if kind is not None and name not in as_written]
        self._stream = open_rows(self.corpus, scratch, self._wanted, varying=[*self.text_columns, *numbers])
        first = next(self._batches())
        for option, name in zip(("text_column", "text_pair_column"), self.text_columns, strict=False):
            found = first.schema.field(name).type
            if not (_is_text(found) or _is_json(found) or pa.types.is_null(found)):
                raise UsageError(f"--{option} must name a column of texts, and {name} has the type {found}.")
        self.schema = self._output_columns(first, 0).schema

    def total(self) -> int | None:
        """Return the number of rows, an estimate for files of text, or None if it cannot be known without reading."""
        if self.corpus.corpus == DOCUMENTATION:
            return None
        source = find_files(self.corpus.corpus, "corpus")
        if source is None:
            split = (self._stream.info.splits or {}).get(self.corpus.split)
            return split.num_examples or None if split is not None else None
        reader, files = source
        if reader == "parquet":
            return sum(parquet.read_metadata(file).num_rows for file in files)
        return estimate_rows(reader, files)

    def chunks(self, wanted: Callable[[int], bool] = lambda shard: True) -> Iterator[Chunk]:
        """Yield the rows of shards, and count all rows.

        Args:
            wanted: Takes the number of a shard and returns whether to yield its rows.

        Raises:
            UsageError: If the corpus cannot be read, or if a row is bad and bad rows are errors.
        """
        size, waiting, number, characters = self.rows.shard_rows, [], 0, 0
        for batch in self._batches():
            while batch.num_rows:
                shard = number // size
                # A shard ends inside a batch if its size is not a multiple of that of a batch.
                part = batch.slice(0, min(_BATCH_ROWS, (shard + 1) * size - number))
                batch = batch.slice(part.num_rows)
                number += part.num_rows
                ends = number == (shard + 1) * size
                if not wanted(shard):
                    continue
                waiting.append(part)
                characters += sum(_characters(part.column(name)) for name in self.text_columns)
                rows = sum(each.num_rows for each in waiting)
                if ends or rows >= CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
                    yield self._chunk(shard, number - rows, ends, joined(waiting))
                    waiting, characters = [], 0
        if waiting:
            rows = sum(each.num_rows for each in waiting)
            yield self._chunk((number - 1) // size, number - rows, False, joined(waiting))
        self.count = number

    def _batches(self) -> Iterator[pa.Table]:
        done = 0
        try:
            for batch in self._stream.iter(batch_size=_BATCH_ROWS):
                yield batch
                done += batch.num_rows
        # Each reader raises its own kinds of errors.
        except Exception as error:
            if isinstance(error, UsageError) or (isinstance(error, OSError) and error.errno):
                raise
            reason = str(error) or type(error).__name__
            raise UsageError(f"--corpus {self.corpus.corpus} cannot be read after row {done}: {reason}") from error

    def _chunk(self, shard: int, first: int, ends_shard: bool, table: pa.Table) -> Chunk:
        longest = self.rows.max_characters
        read = [_texts(table.column(name), longest, self.empty_is_bad) for name in self.text_columns]
        good = np.array([all(isinstance(text, str) for text in row) for row in zip(*(r for r, _ in read), strict=True)])
        bad: Counter[str] = Counter()
        for index in np.flatnonzero(~good).tolist():
            name, kind = next(
                (name, kinds[index]) for name, (_, kinds) in zip(self.text_columns, read, strict=True) if index in kinds
            )
            bad[kind] += 1
            if self.rows.strict:
                limit = f" (--max_characters {longest})" if kind == TOO_LONG else ""
                raise UsageError(f"row {first + index} of --corpus {self.corpus.corpus}: its {name} is {kind}{limit}.")
        texts = [[text for text, fine in zip(found, good, strict=True) if fine] for found, _ in read]
        return Chunk(shard, first, ends_shard, self._output_columns(table, first), good, texts, bad)

    def _output_columns(self, table: pa.Table, first: int) -> pa.Table:
        columns = [self._copy(table.column(name), name, kind, first) for _, name, kind in self._copied]
        if self.rows.id_column is None:
            columns.insert(0, pa.chunked_array([pa.array(np.arange(first, first + table.num_rows))]))
        names = [name for option, name, _ in self._copied if option == "columns"]
        found = pa.table(columns, names=["id", *names])
        try:
            return found.cast(self.schema or found.schema)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise UsageError(
                f"a column of --corpus {self.corpus.corpus} has other types in the rows from {first} than in the "
                f"first rows: {error}"
            ) from error

    def _copy(self, column: pa.ChunkedArray, name: str, kind: str | None, first: int) -> pa.ChunkedArray:
        if kind is not None:
            try:
                return pa.chunked_array([as_numbers(_values(column, {}), kind)])
            except NotANumber as error:
                raise UsageError(
                    f"{self._place(first + error.index)} has {error.value!r} in the column {name}, which is no number "
                    f"for --columns {name}:{kind}; copy it as --columns {name}, or fix the file."
                ) from error
        if name in self.text_columns and _is_json(column.type):
            # The JSON of a text has quotes.
            texts = [value if isinstance(value, str) else None for value in _values(column, {})]
            return pa.chunked_array([pa.array(texts, pa.string())])
        return _plain(column)

    def _place(self, row: int) -> str:
        """Return the location of a row for messages."""
        if isinstance(self._stream, RowTables):
            return self._stream.files.place(row)
        return f"row {row} of --corpus {self.corpus.corpus}"


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or str(kind) == "string_view"


def _is_json(kind: pa.DataType) -> bool:
    """Return whether a column has values of several types, which `datasets` keeps as JSON."""
    return isinstance(kind, pa.BaseExtensionType) and kind.extension_name == "arrow.json"


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column without an extension type, which most readers do not know."""
    if isinstance(column.type, pa.BaseExtensionType):
        return pa.chunked_array([chunk.storage for chunk in column.chunks], type=column.type.storage_type)
    # Later rows may have texts, and there is no cast from them to null.
    return column.cast(pa.string()) if pa.types.is_null(column.type) else column


def _characters(column: pa.ChunkedArray) -> int:
    plain = _plain(column)
    return pc.sum(pc.binary_length(plain.cast(pa.large_string()))).as_py() or 0 if _is_text(plain.type) else 0


def _texts(column: pa.ChunkedArray, longest: int, empty_is_bad: bool) -> tuple[list[Any], dict[int, str]]:
    """Return the values of a column, with None for those that are not texts, and what is wrong with each of those."""
    kinds: dict[int, str] = {}
    values = _values(column, kinds)
    for index, value in enumerate(values):
        if index in kinds:
            continue
        if value is None:
            kinds[index] = NULL
        elif not isinstance(value, str):
            kinds[index], values[index] = NOT_TEXT, None
        elif len(value) > longest:
            kinds[index], values[index] = TOO_LONG, None
        elif empty_is_bad and not value.strip():
            kinds[index], values[index] = EMPTY, None
    return values, kinds


def _values(column: pa.ChunkedArray, kinds: dict[int, str]) -> list[Any]:
    if _is_json(column.type):
        return [None if value is None else json.loads(value) for value in _plain(column).to_pylist()]
    if not _is_text(column.type):
        return column.to_pylist()
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        pass
    values = []
    for index, content in enumerate(column.cast(pa.large_string()).cast(pa.large_binary()).to_pylist()):
        try:
            values.append(None if content is None else content.decode("utf-8"))
        except UnicodeDecodeError:
            kinds[index] = NOT_UTF8
            values.append(None)
    return values
