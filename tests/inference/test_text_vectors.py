"""Sparse vectors and those of tokens are what sentence-transformers computes, and `embed` writes them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sentence_transformers.multi_vector_encoder", reason="needs sentence-transformers 6")
pa = pytest.importorskip("pyarrow", reason="needs the extra embed")
pytestmark = pytest.mark.since("pyarrow", "26", "writes null vectors")

from sentence_transformers import MultiVectorEncoder, SparseEncoder  # noqa: E402
from tqdm import tqdm  # noqa: E402

from sequence_encoder import embed_corpus  # noqa: E402
from sequence_encoder.command_line import UsageError  # noqa: E402
from sequence_encoder.conversion.source import Source  # noqa: E402
from sequence_encoder.inference.corpora.formats import connect  # noqa: E402
from sequence_encoder.inference.corpora.models import kind_of, load_text_vectors  # noqa: E402
from sequence_encoder.inference.device import choose_device  # noqa: E402
from sequence_encoder.inference.vectors.recipes import read_token_recipe  # noqa: E402
from sequence_encoder.inference.vectors.text_vectors import TextVectors  # noqa: E402
from sequence_encoder.tests.fixtures.corpus_runs import table_of  # noqa: E402
from sequence_encoder.tests.fixtures.vector_folders import CHANNELS, TEXTS  # noqa: E402

Reference = Callable[..., list[np.ndarray]]
EXPANSION = {"strategy": "min", "attend": True, "length": 12}
SPARSE, LATE = ("sparse", "sum"), ("late", "plain")


def load(folder: Path) -> TextVectors:
    kind = kind_of(Source(str(folder)))
    assert kind is not None
    return load_text_vectors(kind, Source(str(folder)), choose_device("cpu"), "float32")[0]


@pytest.fixture(scope="module")
def reference(vector_folders: dict[str, Path]) -> Reference:
    """Return `reference(name, task, texts, **options)`, which encodes texts with sentence-transformers."""
    models: dict[str, Any] = {}

    def encode(name: str, task: str, texts: list[str] = TEXTS, **options: Any) -> list[np.ndarray]:
        if name not in models:
            models[name] = (SparseEncoder if name in SPARSE else MultiVectorEncoder)(str(vector_folders[name]))
        found = getattr(models[name], f"encode_{task}")(texts, **options)
        return [(each.to_dense() if name in SPARSE else each).numpy() for each in found]

    return encode


def copy_with(folder: Path, copy: Path, file: str, change: dict[str, Any]) -> None:
    """Copy the folder of a model with a change to a JSON file, or an empty list instead of one."""
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    before = json.loads((copy / file).read_text())
    (copy / file).write_text(json.dumps({**before, **change} if isinstance(before, dict) else []))


def as_array(vector: Any, size: int) -> np.ndarray:
    """Return a sparse vector as an array, and others unchanged."""
    if not isinstance(vector, tuple):
        return vector
    found = np.zeros(size, np.float32)
    found[vector[0]] = vector[1]
    return found


@pytest.mark.parametrize("task", ["query", "document"])
@pytest.mark.parametrize("name", [*SPARSE, *LATE])
def test_vectors_are_those_of_sentence_transformers(
    vector_folders: dict[str, Path], reference: Reference, name: str, task: str
) -> None:
    vectors = load(vector_folders[name])
    ids = vectors.reader(task).tokenize(TEXTS)["input_ids"]
    with tqdm(disable=True) as silent:
        (found,) = vectors.encode(ids, task, max_tokens=40, name=str, progress=silent)
    (kind,) = vectors.kinds
    for vector, expected in zip(found, reference(name, task), strict=True):
        np.testing.assert_allclose(as_array(vector, vectors.channels(kind)), expected, atol=1e-5)


@pytest.mark.parametrize("name", SPARSE)
def test_long_texts_are_pooled_in_parts(
    vector_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    vectors = load(vector_folders[name])
    ids = vectors.reader("document").tokenize(TEXTS)["input_ids"]
    (expected,) = vectors.compute(ids, "document")
    monkeypatch.setattr("sequence_encoder.inference.vectors.sparse_vectors._LOGITS", 7 * vectors.channels("sparse"))
    parts: list[int] = []
    pooled = vectors._pooled  # type: ignore[attr-defined]

    def record(states: Any, lengths: list[int]) -> Any:
        parts.append(len(states))
        return pooled(states, lengths)

    monkeypatch.setattr(vectors, "_pooled", record)
    (found,) = vectors.compute(ids, "document")
    assert (max(parts), sum(parts)) == (7, sum(map(len, ids)))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_allclose(one[1], other[1], atol=1e-5)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
    rows = [{"text": text, "n": number} for number, text in enumerate([*TEXTS[:2], None, *TEXTS[2:]])]
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


@pytest.mark.parametrize("name", ["sparse", "late"])
def test_embed_writes_the_vectors_of_documents(
    vector_folders: dict[str, Path], reference: Reference, corpus: Path, tmp_path: Path, name: str
) -> None:
    options = {"dtype": "float32", "precision": "float32", "shard_rows": 4}
    counts = embed_corpus(vector_folders[name], corpus, tmp_path / "whole", **options)
    assert (counts.rows, counts.bad.total(), counts.truncated) == (6, 1, int(name == "late"))
    table = table_of(tmp_path / "whole")
    column = "sparse_embedding" if name == "sparse" else "token_embeddings"
    kind = table.schema.field(column).type
    if name == "sparse":
        assert kind == pa.struct([("indices", pa.list_(pa.uint32())), ("values", pa.list_(pa.float32()))])
    else:
        assert kind == pa.list_(pa.list_(pa.float32(), CHANNELS))
    found = table[column].to_pylist()
    assert found.pop(2) is None
    for vector, expected in zip(found, reference(name, "document"), strict=True):
        pair = (np.array(vector["indices"], int), vector["values"]) if name == "sparse" else np.array(vector)
        np.testing.assert_allclose(as_array(pair, len(expected)), expected, atol=1e-5)
    # The second run computes the shard that is missing.
    (tmp_path / "whole" / "shard-000000.parquet").unlink()
    embed_corpus(vector_folders[name], corpus, tmp_path / "whole", **options)
    assert table_of(tmp_path / "whole").equals(table)
    pytest.importorskip("lancedb", reason="needs the extra search")
    embed_corpus(vector_folders[name], corpus, tmp_path / "lance", format="lance", **options)
    assert connect(tmp_path / "lance").open_table("embeddings").to_arrow().to_pylist() == table.to_pylist()


def test_token_vectors_take_half_the_space_and_may_get_unit_length(
    vector_folders: dict[str, Path], reference: Reference, corpus: Path, tmp_path: Path
) -> None:
    embed_corpus(vector_folders["plain"], corpus, tmp_path / "vectors", normalize=True, prompt="the ")
    column = table_of(tmp_path / "vectors")["token_embeddings"]
    assert column.type == pa.list_(pa.list_(pa.float16(), 24))
    expected = reference("plain", "document", prompt="the ", normalize_embeddings=True)
    # bfloat16 is what some processors compute in by default.
    np.testing.assert_allclose(np.array(column[0].as_py(), np.float32), expected[0], atol=0.1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sparse", {"format": "npy"}, "--format npy does not apply to .*, which computes sparse vectors"),
        ("late", {"format": "npy"}, "--format npy does not apply to .*, which computes token vectors"),
        ("late", {"pooling": "mean"}, "--pooling mean does not apply to"),
        ("sparse", {"truncate_dim": 4}, "--truncate_dim 4 does not apply to .*: only dense vectors"),
        ("late", {"precision": "int8"}, "--precision int8 does not apply to"),
        ("sparse", {"precision": "binary"}, "--precision binary does not apply to"),
        ("sparse", {"normalize": True}, "--normalize does not apply to"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    vector_folders: dict[str, Path], corpus: Path, tmp_path: Path, name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        embed_corpus(vector_folders[name], corpus, tmp_path / "vectors", **options)
    assert not (tmp_path / "vectors").exists()


@pytest.mark.parametrize(
    ("name", "file", "change", "message"),
    [
        ("sparse", "1_SpladePooling/config.json", {"pooling_strategy": "mean"}, "pooling_strategy='mean'"),
        ("late", "sentence_bert_config.json", {"query_expansion": {"attend": False}}, "query_expansion with attend=F"),
        ("late", "2_MultiVectorMask/config.json", {"keep_only_token_ids": [3]}, "keep_only_token_ids"),
        ("late", "modules.json", {}, "modules.json has no modules"),
        ("sparse", "config_sentence_transformers.json", {"max_active_dims": 0}, "max_active_dims must be .* got 0"),
        ("late", "sentence_bert_config.json", {"document_length": "9"}, "document_length must be .* got '9'"),
        ("late", "sentence_bert_config.json", {"query_expansion": {**EXPANSION, "strategy": "max"}}, "strategy='max'"),
        ("late", "sentence_bert_config.json", {"query_expansion": {**EXPANSION, "length": -1}}, "length of .* got -1"),
    ],
)
def test_modules_that_cannot_be_followed_are_refused(
    vector_folders: dict[str, Path], tmp_path: Path, name: str, file: str, change: dict[str, Any], message: str
) -> None:
    copy_with(vector_folders[name], tmp_path, file, change)
    with pytest.raises(ValueError, match=rf"The modules in .* cannot be used: .*{message}"):
        kind_of(Source(str(tmp_path)))


@pytest.mark.parametrize(("given", "tasks"), [(None, ("document",)), ("query", ("query",)), ([], ())])
def test_a_skiplist_is_that_of_its_tasks(
    vector_folders: dict[str, Path], tmp_path: Path, given: Any, tasks: Any
) -> None:
    copy_with(vector_folders["late"], tmp_path, "2_MultiVectorMask/config.json", {"skiplist_tasks": given})
    assert read_token_recipe(tmp_path).left_out_of == tasks
