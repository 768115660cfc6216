"""The texts that a teacher reads in `distill`: a share of the corpus, and texts that join some of it."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from sequence_encoder.data.corpus import TextArguments
from sequence_encoder.inference.corpora.arguments import RowArguments
from sequence_encoder.tests.fixtures.adaptation_runs import WORDS
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


def parts_of(rows: SampledRows) -> list[list[int]]:
    """Return the numbers of the `TEXTS` that each joined text consists of."""
    found = []
    for chunk in rows.chunks():
        for text in chunk.texts[0]:
            words = text.split()
            numbers = [TEXTS.index(" ".join(words[first : first + 8])) for first in range(0, len(words), 8)]
            found += [numbers] if len(numbers) > 1 else []
    return found


def test_texts_are_joined_in_place_of_their_last_part(tmp_path: Path) -> None:
    rows = rows_of(TEXTS, tmp_path, 45, longest_joined=64)
    found = [text for chunk in rows.chunks() for text in chunk.texts[0]]
    assert len(found) == len(TEXTS)
    joined = parts_of(rows)
    assert len(joined) > 2
    assert sorted(joined) == joined
    for numbers in joined:
        assert found[numbers[-1]] == " ".join(TEXTS[number] for number in numbers)
        assert len(found[numbers[-1]]) <= 4 * 64
    last = {numbers[-1] for numbers in joined}
    assert all(text == TEXTS[number] for number, text in enumerate(found) if number not in last)
    assert parts_of(rows_of(TEXTS, tmp_path, 45, longest_joined=64)) == joined


def test_a_quarter_of_each_source_is_joined_where_sources_take_turns(tmp_path: Path) -> None:
    joined = [number for numbers in parts_of(rows_of(TEXTS, tmp_path, 90, longest_joined=256)) for number in numbers]
    assert 0.2 < len(joined) / len(TEXTS) < 0.3
    for sources in (2, 3, 4):
        assert {number % sources for number in joined} == {*range(sources)}


def test_long_texts_and_rows_without_texts_are_not_joined(tmp_path: Path) -> None:
    long = "cat " * 80
    (chunk,) = rows_of([long, "dog"] * 30, tmp_path, 60, longest_joined=64).chunks()
    assert [text for text in chunk.texts[0] if "cat" in text] == [long] * 30
    assert any("dog dog" in text for text in chunk.texts[0])
    (chunk,) = rows_of([" "] * 20, tmp_path, 50, longest_joined=64).chunks()
    assert chunk.texts[0] == [" "] * 20
    joined = parts_of(rows_of(TEXTS, tmp_path, 90, longest_joined=64))
    missing = parts_of(rows_of([None] * 30 + TEXTS[30:], tmp_path, 90, longest_joined=64))
    assert missing
    assert {number for numbers in missing for number in numbers} <= {number for numbers in joined for number in numbers}


def written(folder: Path, ids: Sequence[int]) -> Path:
    """Write what a teacher has computed for texts whose only token is their number."""
    tokens = pa.array([[number] for number in ids], pa.list_(pa.int32()))
    vectors = pa.array([[1.0, 0.0]] * len(ids), pa.list_(pa.float32(), 2))
    parquet.write_table(pa.table({"id": ids, "input_ids": tokens, "target": vectors}), folder / "shard-0.parquet")
    return folder


def test_parts_of_joined_texts_are_not_held_out(tmp_path: Path) -> None:
    joined = [number for numbers in parts_of(rows_of(TEXTS, tmp_path, 90, longest_joined=256)) for number in numbers]
    outputs = written(tmp_path, range(90))
    for seed in range(20):
        read = read_outputs(outputs, tmp_path / "cache", seed, False)
        held_out, units = ([int(row["input_ids"][0]) for row in rows] for rows in (read.held_out, read.units))
        assert len(held_out) == 5
        assert not {*held_out} & {*joined}
        assert sorted([*held_out, *units]) == [*range(90)]
        assert read.count == 85


def test_some_texts_are_held_out_even_if_all_are_parts_of_joined_ones(tmp_path: Path) -> None:
    joined = [number for numbers in parts_of(rows_of(TEXTS, tmp_path, 90, longest_joined=256)) for number in numbers]
    assert len(read_outputs(written(tmp_path, joined), tmp_path / "cache", 0, False).held_out) == 2
