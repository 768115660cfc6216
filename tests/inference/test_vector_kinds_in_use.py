"""Indexes, searches and servers with sparse and late-interaction encoders."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sentence_transformers.multi_vector_encoder", reason="needs sentence-transformers 6")
pytest.importorskip("fastapi", reason="needs the extra serve")
lancedb = pytest.importorskip("lancedb", reason="needs the extra search")
pa = pytest.importorskip("pyarrow", reason="needs the extra search")
pytestmark = pytest.mark.since("pyarrow", "26", "writes null vectors")

from sentence_transformers import MultiVectorEncoder, SparseEncoder  # noqa: E402

from sequence_encoder import SearchIndex, ServerLimits, create_app, index_corpus, load_served_model  # noqa: E402  # noqa: E402
from sequence_encoder.command_line import UsageError  # noqa: E402
from sequence_encoder.search.arguments import MODES  # noqa: E402
from sequence_encoder.search.indexing import add_indexes  # noqa: E402
from sequence_encoder.search.postings import write_postings  # noqa: E402
from sequence_encoder.search.vector_search import LanceSearch  # noqa: E402
from sequence_encoder.tests.fixtures.serving_apps import ask  # noqa: E402
from sequence_encoder.tests.fixtures.vector_folders import TEXTS  # noqa: E402

NAMES = ["sparse", "late"]
CLASSES = {"sparse": SparseEncoder, "late": MultiVectorEncoder}
QUERY = "the dog by the owl"
OPTIONS: dict[str, Any] = {"dtype": "float32", "columns": "n", "shard_rows": 8}
# Texts that differ, so that no two scores are equal.
ROWS = [{"text": f"{text} {' '.join(TEXTS[4].split()[: n % 7])}", "n": n} for n, text in enumerate(TEXTS * 6)]


@pytest.fixture(scope="module")
def models(vector_folders: dict[str, Path]) -> dict[str, Any]:
    """Return the models of sentence-transformers."""
    return {name: CLASSES[name](str(vector_folders[name])) for name in NAMES}


@pytest.fixture(scope="module")
def index_folders(vector_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("indexes")
    (place / "texts.jsonl").write_text("\n".join(map(json.dumps, [*ROWS, {"text": None, "n": 99}])))
    with pytest.MonkeyPatch.context() as patch:
        # An inverted index is made of several parts.
        patch.setattr("sequence_encoder.search.postings._ROWS", 8)
        for name in NAMES:
            index_corpus(vector_folders[name], place / "texts.jsonl", place / name, **OPTIONS)
    return {name: place / name for name in NAMES}


@pytest.fixture(scope="module")
def indexes(index_folders: dict[str, Path]) -> dict[str, SearchIndex]:
    return {name: SearchIndex(folder) for name, folder in index_folders.items()}


@pytest.mark.parametrize("name", NAMES)
def test_hits_are_those_with_the_largest_similarity(
    indexes: dict[str, SearchIndex], models: dict[str, Any], name: str
) -> None:
    model, index = models[name], indexes[name]
    documents = model.encode_document([row["text"] for row in ROWS])
    expected = model.similarity(model.encode_query([QUERY]), documents)[0].numpy()
    # All rows with a text; in an inverted index, those with a weight of the query.
    hits = index.search(QUERY, 100, mode="vector")
    assert len(hits) == (expected > 0).sum()
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(expected)[::-1][: len(hits)], rtol=0.02)
    np.testing.assert_allclose([expected[hit.id] for hit in hits], [hit.score for hit in hits], rtol=0.02)
    assert (hits[0].text, hits[0].fields) == (ROWS[hits[0].id]["text"], {"n": hits[0].id})
    found = index.search(QUERY, 4, mode="vector", where="n > 9 AND n < 20")
    assert [hit.id for hit in found] == [hit.id for hit in hits if 9 < hit.id < 20][:4]


@pytest.mark.parametrize("name", NAMES)
def test_both_kinds_of_search_are_merged(indexes: dict[str, SearchIndex], name: str) -> None:
    found = {mode: [hit.id for hit in indexes[name].search("owl", 5, mode=mode)] for mode in MODES}
    assert set(found["hybrid"]) <= {*found["vector"], *found["text"]}
    assert {found["vector"][0], found["text"][0]} <= set(found["hybrid"])
    assert len(found["hybrid"]) == 5
    reranker: Any = SimpleNamespace(rerank=lambda query, hits: hits[::-1])
    hits = indexes[name].search("owl", 2, reranker=reranker, candidates=5)
    assert [hit.id for hit in hits] == found["hybrid"][:-3:-1]
    assert all(hit.fields["n"] > 12 for hit in indexes[name].search("owl", 5, where="n > 12"))
    with pytest.raises(ValueError, match=r"where='age > 3' is not a valid condition: .*No field named age"):
        indexes[name].search("owl", where="age > 3")


def test_an_index_takes_only_its_own_kind_of_model(
    index_folders: dict[str, Path], vector_folders: dict[str, Path], tmp_path: Path
) -> None:
    index = SearchIndex(index_folders["sparse"], model=str(vector_folders["late"]))
    with pytest.raises(UsageError, match="late does not have sparse vectors, as the index does"):
        index.search("owl")
    (tmp_path / "texts.txt").write_text("a dog\n")
    with pytest.raises(UsageError, match="do not have length 1, but an index compares cosines; pass --normalize"):
        index_corpus(vector_folders["plain"], tmp_path / "texts.txt", tmp_path / "index")
    index_corpus(vector_folders["plain"], tmp_path / "texts.txt", tmp_path / "index", normalize=True)
    assert [hit.text for hit in SearchIndex(tmp_path / "index").search("dog", mode="vector")] == ["a dog"]


def test_a_damaged_inverted_index_is_made_again(
    index_folders: dict[str, Path], vector_folders: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(index_folders["sparse"], tmp_path, dirs_exist_ok=True)
    file = tmp_path / "postings" / "rows.npy"
    query: dict[str, Any] = {"mode": "vector", "vector": (np.arange(40), np.ones(40, np.float32))}
    expected = SearchIndex(tmp_path).search(QUERY, **query)
    cut = np.load(file)[:-1]
    for damage in (lambda: None, file.touch, lambda: np.save(file, cut)):
        file.unlink()
        damage()
        with pytest.raises(UsageError, match=r"postings is damaged .*; run the same `sequence-encoder index` again"):
            SearchIndex(tmp_path).search(QUERY, **query)
        index_corpus(vector_folders["sparse"], index_folders["sparse"].parent / "texts.jsonl", tmp_path, **OPTIONS)
        assert SearchIndex(tmp_path).search(QUERY, **query) == expected


def test_an_index_of_many_token_vectors_finds_nearly_all_neighbours(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    topics = rng.normal(size=(60, 1, 16)).repeat(10, axis=0)
    vectors = (topics + 0.3 * rng.normal(size=(600, 3, 16))).astype(np.float16)
    stored = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 16)
    lists = pa.ListArray.from_arrays(pa.array(np.arange(0, 1801, 3, dtype=np.int32)), stored)
    columns = pa.table({"id": np.arange(600), "text": ["word"] * 600, "token_embeddings": lists})
    table = lancedb.connect(str(tmp_path)).create_table("embeddings", columns)
    search = LanceSearch(table, "token_embeddings", several=True, fewest=600)
    layout = add_indexes(table, search, "text", "English")
    assert {index.index_type for index in table.list_indices()} == {"FTS", "IvfRq"}
    assert layout.recall >= 0.97
    near, exact = (search.nearest(vectors[5], 10, probes).rows for probes in (layout.probes, None))
    assert len({*near.tolist()} & {*exact.tolist()}) >= 9
    # The first rows of an approximate search are the same with every limit, too.
    everything = search.nearest(vectors[5], 600, layout.probes).rows
    for limit in (1, 20, 100, 101, 300):
        np.testing.assert_array_equal(search.nearest(vectors[5], limit, layout.probes).rows, everything[:limit])


@pytest.fixture(scope="module")
def app(vector_folders: dict[str, Path], indexes: dict[str, SearchIndex]) -> Iterator[Callable[[str], Any]]:
    """Return `app(name)`, an application with both models and an index."""
    served = [load_served_model(str(vector_folders[name]), "float32", "cpu") for name in NAMES]
    apps = {name: create_app(served, index=indexes[name]) for name in NAMES}
    yield apps.__getitem__
    for each in apps.values():
        each.state.service.scheduler.close()


def test_a_full_disk_does_not_end_the_process_that_writes_postings(
    index_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the space, writing to memory that is mapped to a file ends a process with SIGBUS."""
    sizes: list[int] = []

    def allocate(descriptor: int, offset: int, size: int) -> None:
        sizes.append(size)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", allocate)
    index = SearchIndex(index_folders["sparse"])
    with pytest.raises(OSError, match="No space left"):
        write_postings(tmp_path, index.table, index.vectors.column, 1000)
    assert sizes == [(tmp_path / "postings" / "rows.npy").stat().st_size]


def test_a_server_returns_sparse_vectors(app: Callable[[str], Any], models: dict[str, Any]) -> None:
    for prompt_name, task in ((None, "document"), ("query", "query")):
        answer = ask(app("sparse"), "/embed_sparse", {"inputs": TEXTS, "prompt_name": prompt_name})
        assert answer.status_code == 200
        expected = getattr(models["sparse"], f"encode_{task}")(TEXTS).to_dense().numpy()
        for pairs, row in zip(answer.json(), expected, strict=True):
            found = np.zeros_like(row)
            found[[pair["index"] for pair in pairs]] = [pair["value"] for pair in pairs]
            np.testing.assert_allclose(found, row, atol=1e-5)
    assert len(ask(app("sparse"), "/embed_sparse", {"inputs": "a dog"}).json()) == 1
    answer = ask(app("sparse"), "/embed_sparse", {"inputs": "a dog", "model": "late"})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("The model late cannot embed sparse. Start the server with a model that")


def test_a_server_stops_computing_more_sparse_weights_than_it_can_send(
    vector_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sequence_encoder.serving.tei_routes._MOST_NUMBERS", 20)
    served = load_served_model(str(vector_folders["sparse"]), "float32", "cpu")
    computed: list[Any] = []
    compute = served.compute
    monkeypatch.setattr(served, "compute", lambda group, rows: computed.extend(rows) or compute(group, rows))
    app = create_app([served], ServerLimits(max_tokens=1))
    answer = ask(app, "/embed_sparse", {"inputs": ["a dog", "it"] * 3})
    app.state.service.scheduler.close()
    assert (answer.status_code, len(computed)) == (413, 3)
    assert "at least 27 numbers, but the server returns at most 20" in answer.json()["error"]


@pytest.mark.parametrize("name", NAMES)
def test_a_server_searches_an_index(app: Callable[[str], Any], indexes: dict[str, SearchIndex], name: str) -> None:
    expected = indexes[name].search(QUERY, 5, mode="vector")
    hits = ask(app(name), "/search", {"query": QUERY, "limit": 5, "mode": "vector"}).json()["hits"]
    assert [hit["score"] for hit in hits] == pytest.approx([hit.score for hit in expected], rel=0.02)


def test_a_server_describes_its_models(app: Callable[[str], Any]) -> None:
    listed = ask(app("late"), "/v1/models").json()["data"]
    assert [model["tasks"] for model in listed] == [["embed_sparse"], ["embed_all"]]
    assert ask(app("late"), "/info").json()["model_type"] == {"embedding": {"pooling": "splade"}}
    found = ask(app("late"), "/tokenize", {"inputs": "a dog", "model": "late"}).json()
    ids = [token["id"] for token in found[0]]
    assert ask(app("late"), "/decode", {"ids": ids, "model": "late"}).json() == ["here is a dog"]
