"""A tiny model and a small corpus for the tests of `sequence-encoder embed` and `sequence-encoder predict`."""

from __future__ import annotations

import filecmp
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from sequence_encoder import embed_corpus
from sequence_encoder.bulk.results import Counts
from sequence_encoder.tests.adaptation_runs import WORDS

SHARD_ROWS = 8
# Bad rows by their number.
NULL, LONG = 3, 20
LONGEST = 400


def rows_of(count: int = 30) -> list[dict[str, Any]]:
    """Return rows with texts of several lengths, one of which is null, one too long and one empty."""
    rng = random.Random(0)
    rows = [
        {"text": " ".join(rng.choices(WORDS, k=rng.randint(1, 20))), "key": f"k{number}", "number": number / 2}
        for number in range(count)
    ]
    rows[NULL]["text"], rows[LONG]["text"], rows[5]["text"] = None, "a " * LONGEST, ""
    return rows


def write_rows(file: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows to a Parquet file with several row groups."""
    parquet.write_table(pa.Table.from_pylist(rows), file, row_group_size=7)
    return file


def options_of(model: Path, corpus: Path, output: Path, **options: Any) -> dict[str, Any]:
    """Return the options of a small run."""
    small = {"shard_rows": SHARD_ROWS, "max_characters": LONGEST, "dtype": "float32", "device": "cpu"}
    return {"model": model, "corpus": corpus, "output_dir": output, **small, **options}


def embed(model: Path, corpus: Path, output: Path, **options: Any) -> Counts:
    """Embed a corpus in this process."""
    return embed_corpus(**options_of(model, corpus, output, **options))


def arguments_of(model: Path, corpus: Path, output: Path, **options: Any) -> list[str]:
    """Return the command line of a small run."""
    given = options_of(model, corpus, output, **options)
    return [str(given.pop("model")), *(part for name, value in given.items() for part in (f"--{name}", str(value)))]


def shards_in(folder: Path) -> list[Path]:
    """Return the files of all shards."""
    return sorted(folder.glob("shard-*"))


def table_of(folder: Path) -> pa.Table:
    """Read all Parquet files of a folder in order."""
    return pa.concat_tables([parquet.read_table(file) for file in sorted(folder.glob("shard-*.parquet"))])


def assert_same_shards(folder: Path, expected: Path) -> None:
    """Check that two folders have the same shards, byte for byte."""
    names = [file.name for file in shards_in(expected)]
    assert [file.name for file in shards_in(folder)] == names
    assert filecmp.cmpfiles(folder, expected, names, shallow=False) == (names, [], [])
