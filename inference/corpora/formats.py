"""Writes the results of shards as Parquet files, as NumPy arrays, or into a table of LanceDB.

A shard is written under a temporary name, and renamed when it is complete. A table of LanceDB gets all rows of a shard
in one step.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from ...command_line import UsageError
from ...saving.whole_folders import write_atomically
from .results import Counts

# The keys in the metadata of the files, for what describes the results and for the counts of a shard.
FACTS, COUNTS = "sequence_encoder", "sequence_encoder.counts"
VECTORS, EMBEDDED = "embedding", "embedded"
# The table of LanceDB.
TABLE = "embeddings"
# The columns that LanceDB adds to what it finds.
LANCE_COLUMNS = ("_rowid", "_rowaddr", "_rowoffset", "_distance", "_score", "_relevance_score")
# LanceDB warns if vectors repeat, since an index of them has empty parts, but still finds all of them.
_LANCE_LOG = "warn,lance_index::vector::kmeans=error,lance::index::vector::builder=error"
_SHARD = re.compile(r"shard-(\d+)\.parquet")


class ShardWriter(Protocol):
    """Writes one shard."""

    def write(self, table: pa.Table) -> None:
        """Write the next rows."""

    def finish(self, counts: Counts) -> None:
        """Complete the shard."""


class Shards(Protocol):
    """The shards of an output folder.

    Attributes:
        one_process: Whether only one process can write them.
        own_columns: The columns that the format adds.
    """

    one_process: bool
    own_columns: tuple[str, ...]

    @staticmethod
    def can_name(column: str) -> bool:
        """Return whether a column can have a name."""

    @staticmethod
    def found_in(folder: Path, shard_rows: int) -> set[int]:
        """Return the numbers of the shards that exist in a folder."""

    def writer(self, number: int, scratch: Path) -> ShardWriter:
        """Start a shard. Incomplete files go to the folder `scratch`."""

    def counts(self, number: int) -> Counts:
        """Return the counts of a shard that exists."""


def schema_with(fields: list[pa.Field], facts: Mapping[str, Any]) -> pa.Schema:
    """Return a schema whose metadata describes the results."""
    return pa.schema(fields, metadata={FACTS: json.dumps(facts)})


class ParquetShards:
    """Parquet files, with a row group for each chunk.

    Args:
        folder: The folder of the files.
        schema: Their schema.
        state: The folder for what the run keeps.
    """

    one_process = False
    own_columns: tuple[str, ...] = ()

    def __init__(self, folder: Path, schema: pa.Schema, state: Path) -> None:
        self.folder, self.schema = folder, schema

    @staticmethod
    def can_name(column: str) -> bool:
        """See `Shards.can_name`."""
        return True

    @staticmethod
    def found_in(folder: Path, shard_rows: int) -> set[int]:
        """See `Shards.found_in`."""
        return {int(found[1]) for path in folder.iterdir() if (found := _SHARD.fullmatch(path.name))}

    def writer(self, number: int, scratch: Path) -> ShardWriter:
        """See `Shards.writer`."""
        return ParquetWriter(self.file(number), self.schema, scratch)

    def counts(self, number: int) -> Counts:
        """See `Shards.counts`.

        Raises:
            UsageError: If this run has not written the shard, or if it is damaged.
        """
        file = self.file(number)
        try:
            found = (parquet.read_metadata(file).metadata or {}).get(COUNTS.encode())
        except (pa.ArrowException, OSError) as error:
            raise UsageError(f"{file} is damaged ({error}); delete it and run the command again.") from error
        if found is None:
            raise UsageError(f"{file} was not written by this command; move it away and run the command again.")
        return Counts.from_json(found)

    def file(self, number: int) -> Path:
        """Return the file of a shard."""
        return self.folder / f"shard-{number:06d}.parquet"


class ParquetWriter:
    """Writes a Parquet file.

    Args:
        file: The file.
        schema: Its schema.
        scratch: The folder for the incomplete file.
    """

    def __init__(self, file: Path, schema: pa.Schema, scratch: Path) -> None:
        self.file, self.temporary = file, scratch / file.name
        # Vectors hardly ever repeat, and their least and greatest numbers tell nothing.
        others = [name for name in schema.names if name != VECTORS]
        self.output = self.temporary.open("wb")
        self.writer = parquet.ParquetWriter(self.output, schema, use_dictionary=others, write_statistics=others)

    def write(self, table: pa.Table) -> None:
        """See `ShardWriter.write`."""
        self.writer.write_table(table)

    def finish(self, counts: Counts) -> None:
        """See `ShardWriter.finish`."""
        self.writer.add_key_value_metadata({COUNTS: counts.to_json()})
        self.writer.close()
        _synchronize(self.output)
        self.output.close()
        os.replace(self.temporary, self.file)


class NpyShards(ParquetShards):
    """NumPy arrays of vectors, beside Parquet files with all other columns and a column `embedded`.

    A bad row has a vector of NaN, or of zeros if vectors are integers.
    """

    own_columns = (EMBEDDED,)

    def __init__(self, folder: Path, schema: pa.Schema, state: Path) -> None:
        place = schema.get_field_index(VECTORS)
        self.vectors = schema.field(place).type
        others = schema.remove(place).append(pa.field(EMBEDDED, pa.bool_()))
        super().__init__(folder, others, state)

    @staticmethod
    def found_in(folder: Path, shard_rows: int) -> set[int]:
        """See `Shards.found_in`."""
        arrays = {path.stem for path in folder.glob("shard-*.npy")}
        return {number for number in ParquetShards.found_in(folder, shard_rows) if f"shard-{number:06d}" in arrays}

    def writer(self, number: int, scratch: Path) -> ShardWriter:
        """See `Shards.writer`."""
        return NpyWriter(super().writer(number, scratch), self.file(number).with_suffix(".npy"), scratch)


class NpyWriter:
    """Writes an array and the Parquet file beside it, whose presence completes the shard.

    Args:
        others: Writes the Parquet file.
        file: The file of the array.
        scratch: The folder for incomplete files.
    """

    def __init__(self, others: ShardWriter, file: Path, scratch: Path) -> None:
        self.others, self.file, self.temporary = others, file, scratch / file.name
        self.parts: list[np.ndarray] = []

    def write(self, table: pa.Table) -> None:
        """See `ShardWriter.write`."""
        vectors = table.column(VECTORS).combine_chunks()
        self.parts.append(vectors.values.to_numpy().reshape(len(vectors), vectors.type.list_size))
        self.others.write(table.drop_columns([VECTORS]).append_column(EMBEDDED, vectors.is_valid()))

    def finish(self, counts: Counts) -> None:
        """See `ShardWriter.finish`."""
        with self.temporary.open("wb") as output:
            write_array(output, np.concatenate(self.parts))
            _synchronize(output)
        os.replace(self.temporary, self.file)
        self.others.finish(counts)


def connect(folder: Path) -> Any:
    """Open the LanceDB database in a folder."""
    # LanceDB reads the variable when it is imported.
    os.environ.setdefault("LANCEDB_LOG", _LANCE_LOG)
    import lancedb

    return lancedb.connect(str(folder))


class LanceShards:
    """A table of LanceDB, to which one shard after the other is added.

    Args:
        folder: The folder of the database.
        schema: The schema of the table.
        state: The folder for the counts of shards.
    """

    one_process = True
    own_columns: tuple[str, ...] = ()

    def __init__(self, folder: Path, schema: pa.Schema, state: Path) -> None:
        self.state = state
        self.table = connect(folder).create_table(TABLE, schema=schema, exist_ok=True)

    @staticmethod
    def can_name(column: str) -> bool:
        """See `Shards.can_name`."""
        return column not in LANCE_COLUMNS and not {".", "`"} & set(column)

    @staticmethod
    def found_in(folder: Path, shard_rows: int) -> set[int]:
        """See `Shards.found_in`."""
        try:
            rows = connect(folder).open_table(TABLE).count_rows()
        except (ValueError, FileNotFoundError):  # There is no table, which versions of LanceDB report differently.
            return set()
        return set(range(-(-rows // shard_rows)))

    def writer(self, number: int, scratch: Path) -> ShardWriter:
        """See `Shards.writer`."""
        return LanceWriter(self.table, self._file(number))

    def counts(self, number: int) -> Counts:
        """See `Shards.counts`."""
        return Counts.from_json(self._file(number).read_text(encoding="utf-8"))

    def _file(self, number: int) -> Path:
        return self.state / f"shard-{number:06d}.json"


class LanceWriter:
    """Adds a shard to a table in one step.

    Args:
        table: The table of LanceDB.
        file: The file for the counts of the shard.
    """

    def __init__(self, table: Any, file: Path) -> None:
        self.table, self.file = table, file
        self.parts: list[pa.Table] = []

    def write(self, table: pa.Table) -> None:
        """See `ShardWriter.write`."""
        self.parts.append(table)

    def finish(self, counts: Counts) -> None:
        """See `ShardWriter.finish`."""
        write_atomically(self.file, [counts.to_json()])
        self.table.add(pa.concat_tables(self.parts))


FORMATS: dict[str, Any] = {"parquet": ParquetShards, "npy": NpyShards, "lance": LanceShards}


def write_array(output: BinaryIO, array: np.ndarray) -> None:
    """Write a NumPy array as `np.save` does, which loses the end of an array without an error if the disk is full.

    Args:
        output: The file.
        array: An array that is contiguous in memory.
    """
    header = np.lib.format.header_data_from_array_1_0(array)
    np.lib.format.write_array_header_1_0(output, header)
    output.write(array.data)


def _synchronize(output: Any) -> None:
    """Write a file to the disk, so that it is complete after a power failure too."""
    output.flush()
    os.fsync(output.fileno())
