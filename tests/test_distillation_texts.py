"""The texts that a teacher reads in `distill`: a share of the corpus, and texts that join some of it."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from sequence_encoder.bulk.arguments import RowArguments
from sequence_encoder.data.corpus import TextArguments
from sequence_encoder.tests.adaptation_runs import WORDS
from sequence_encoder.training.distillation.texts import SampledRows, read_outputs

TEXTS = [" ".join(random.Random(seed).choices(WORDS, k=8)) for seed in range(90)]


def rows_of(texts: Sequence[str | None], folder: Path, shard_rows: int, longest_joined: int = 0) -> SampledRows:
    corpus = folder / "texts.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    rows = SampledRows(TextArguments(str(corpus)), RowArguments(str(folder / "rows"), shard_rows=shard_rows))
    rows.longest_joined = longest_joined
    rows.open(folder)
    return rows


def test_a_share_of_the_shards_is_spread_evenly(tmp_path: Path) -> None:
    rows = rows_of(TEXTS, tmp_path, 10)
    for rows.share, shards in ((1.0, [*range(9)]), (0.5, [0, 2, 4, 6, 8]), (0.2, [0, 5]), (0.01, [0])):
        assert [chunk.shard for chunk in rows.chunks()] == shards


def test_texts_are_joined_in_place_of_their_last_part(tmp_path: Path) -> None:
    rows = rows_of(TEXTS, tmp_path, 45, longest_joined=64)
    chunks = [chunk.texts[0] for chunk in rows.chunks()]
    found, parts = [text for texts in chunks for text in texts], TEXTS[::4]
    assert len(found) == len(TEXTS)
    changed = [number for number, text in enumerate(found) if text != TEXTS[number]]
    assert len(changed) > 3
    for number in changed:
        last = number // 4
        assert any(found[number] == " ".join(parts[first : last + 1]) for first in range(last))
        assert len(found[number]) <= 4 * 64
    assert [chunk.texts[0] for chunk in rows_of(TEXTS, tmp_path, 45, longest_joined=64).chunks()] == chunks


def test_long_texts_and_rows_without_texts_are_not_joined(tmp_path: Path) -> None:
    for texts in (["cat " * 80, "cat"] * 20, [" "] * 20):
        (chunk,) = rows_of(texts, tmp_path, 50, longest_joined=64).chunks()
        assert chunk.texts[0] == texts
    (chunk,) = rows_of([None, None, None, *"abcdef"], tmp_path, 50, longest_joined=64).chunks()
    assert chunk.texts[0] == ["a", "b", "c", "d", "e", "b f"]


def written(folder: Path, ids: Sequence[int]) -> Path:
    """Write what a teacher has computed for texts whose only token is their number."""
    tokens = pa.array([[number] for number in ids], pa.list_(pa.int32()))
    vectors = pa.array([[1.0, 0.0]] * len(ids), pa.list_(pa.float32(), 2))
    parquet.write_table(pa.table({"id": ids, "input_ids": tokens, "target": vectors}), folder / "shard-0.parquet")
    return folder


def test_texts_that_may_be_joined_are_not_held_out(tmp_path: Path) -> None:
    read = read_outputs(written(tmp_path, range(100)), tmp_path / "cache", 0, False)
    held_out, units = ([int(row["input_ids"][0]) for row in rows] for rows in (read.held_out, read.units))
    assert len(held_out) == 5
    assert all(number % 4 for number in held_out)
    assert sorted([*held_out, *units]) == [*range(100)]
    assert read.count == 95


def test_some_texts_are_held_out_even_if_all_may_be_joined(tmp_path: Path) -> None:
    assert len(read_outputs(written(tmp_path, range(0, 40, 4)), tmp_path / "cache", 0, False).held_out) == 1
