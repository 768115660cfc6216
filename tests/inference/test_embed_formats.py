"""The vectors of `embed` in NumPy arrays, in LanceDB, and in eight bits and one bit."""

from __future__ import annotations

import json
import re
import resource
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers.util import quantize_embeddings
from transformers import AutoTokenizer

from sequence_encoder import SequenceEncoderModel
from sequence_encoder.command_line import UsageError
from sequence_encoder.tests.fixtures.adaptation_runs import save_encoder
from sequence_encoder.tests.fixtures.corpus_runs import (
    LONG,
    NULL,
    assert_same_shards,
    embed,
    rows_of,
    table_of,
    write_rows,
)

pytestmark = pytest.mark.since("pyarrow", "26", "writes null vectors")
ROWS = rows_of()
GOOD = [number for number in range(len(ROWS)) if number not in (NULL, LONG)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("models") / "tiny", cls_token_id=2, sep_token_id=3)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("corpus") / "rows.parquet", ROWS)


@pytest.fixture(scope="module")
def expected(model: Path) -> np.ndarray:
    encoder, tokenizer = SequenceEncoderModel.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    return encoder.encode([ROWS[number]["text"] for number in GOOD], tokenizer)


def vectors_of(folder: Path) -> np.ndarray:
    vectors = table_of(folder).column("embedding").to_pylist()
    assert [number for number, vector in enumerate(vectors) if vector is None] == [NULL, LONG]
    return np.array([vectors[number] for number in GOOD])


def test_arrays_have_a_row_for_each_row_and_nan_for_bad_ones(
    model: Path, corpus: Path, expected: np.ndarray, tmp_path: Path
) -> None:
    embed(model, corpus, tmp_path, format="npy", columns=["key"])
    vectors = np.concatenate([np.load(file) for file in sorted(tmp_path.glob("*.npy"))])
    assert vectors.dtype == np.float32
    assert np.flatnonzero(np.isnan(vectors).all(axis=1)).tolist() == [NULL, LONG]
    np.testing.assert_allclose(vectors[GOOD], expected, rtol=1e-5, atol=1e-6)
    table = table_of(tmp_path)
    assert table.schema.names == ["id", "key", "embedded"]
    assert np.flatnonzero(table.column("embedded")).tolist() == GOOD
    # The Parquet file is written last, so that a shard without it is incomplete.
    whole = {file.name: file.read_bytes() for file in tmp_path.glob("shard-*")}
    (tmp_path / "shard-000001.parquet").unlink()
    (tmp_path / "shard-000001.npy").write_bytes(b"incomplete")
    # Someone may delete an array alone.
    (tmp_path / "shard-000002.npy").unlink()
    embed(model, corpus, tmp_path, format="npy", columns=["key"])
    assert {file.name: file.read_bytes() for file in tmp_path.glob("shard-*")} == whole


def test_vectors_in_eight_bits_are_those_of_sentence_transformers(
    model: Path, corpus: Path, expected: np.ndarray, tmp_path: Path
) -> None:
    embed(model, corpus, tmp_path / "out", precision="int8")
    facts = json.loads(table_of(tmp_path / "out").schema.metadata[b"sequence_encoder"])
    ranges = np.array(facts["ranges"], np.float32)
    first = vectors_of(tmp_path / "out")[:7]
    assert (first.min(), first.max()) == (-128, 127)
    if facts["dtype"] == "float32":
        calibration = expected[:7]
        np.testing.assert_allclose(ranges, [calibration.min(axis=0), calibration.max(axis=0)], rtol=1e-5)
    computed = _float_vectors(model, corpus, tmp_path / "float", facts["dtype"])
    assert (vectors_of(tmp_path / "out") == quantize_embeddings(computed, "int8", ranges=ranges)).all()
    # A run that continues has the same ranges.
    (tmp_path / "out" / "shard-000000.parquet").unlink()
    embed(model, corpus, tmp_path / "out", precision="int8")
    embed(model, corpus, tmp_path / "again", precision="int8")
    assert_same_shards(tmp_path / "out", tmp_path / "again")


def test_vectors_of_bits_are_those_of_sentence_transformers(model: Path, corpus: Path, tmp_path: Path) -> None:
    embed(model, corpus, tmp_path / "out", precision="binary")
    facts = json.loads(table_of(tmp_path / "out").schema.metadata[b"sequence_encoder"])
    computed = _float_vectors(model, corpus, tmp_path / "float", facts["dtype"])
    assert (vectors_of(tmp_path / "out") == quantize_embeddings(computed, "binary")).all()


def _float_vectors(model: Path, corpus: Path, output: Path, dtype: str) -> np.ndarray:
    embed(model, corpus, output, dtype=dtype)
    return vectors_of(output).astype(np.float32)


def test_a_table_of_lancedb_has_every_row_once(model: Path, corpus: Path, expected: np.ndarray, tmp_path: Path) -> None:
    lancedb = pytest.importorskip("lancedb")
    embed(model, corpus, tmp_path, format="lance", columns=["key"])
    table = lancedb.connect(str(tmp_path)).open_table("embeddings")
    whole = table.to_arrow()
    assert whole.column("id").to_pylist() == list(range(len(ROWS)))
    np.testing.assert_allclose(
        [vector for vector in whole.column("embedding").to_pylist() if vector], expected, rtol=1e-5, atol=1e-6
    )
    assert table.search(expected[3]).limit(1).to_list()[0]["id"] == GOOD[3]
    # As a run leaves it that was killed after two shards.
    table.delete("id >= 16")
    counts = embed(model, corpus, tmp_path, format="lance", columns=["key"])
    assert counts.rows == len(ROWS)
    assert counts.bad == {"null": 1, "too long": 1}
    assert lancedb.connect(str(tmp_path)).open_table("embeddings").to_arrow().equals(whole)


@pytest.mark.parametrize("file_format", ["parquet", "npy", "lance"])
def test_a_full_disk_keeps_what_is_complete(model: Path, corpus: Path, tmp_path: Path, file_format: str) -> None:
    """A limit on the size of files simulates it: no shard fits, but what is smaller does."""
    if file_format == "lance":
        pytest.importorskip("lancedb")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
    try:
        with pytest.raises(UsageError, match=f"The disk is full; 0 complete shards stay in {tmp_path}"):
            embed(model, corpus, tmp_path, format=file_format, shard_rows=len(ROWS))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert embed(model, corpus, tmp_path, format=file_format, shard_rows=len(ROWS)).rows == len(ROWS)
    assert [path.name for path in tmp_path.rglob("*") if re.match(r"incomplete-|.*\.part$", path.name)] == []
