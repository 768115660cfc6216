"""A server searches an index with its own models, and finds what `SearchIndex` finds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("lancedb", reason="needs the extra search")

from sequence_encoder import SearchIndex, create_app
from sequence_encoder.serving.served_model import ServedModel
from sequence_encoder.tests.fixtures.guides import Block
from sequence_encoder.tests.fixtures.serving_apps import ask, ask_as_curl, documented_requests, indexed, served_models

pytestmark = pytest.mark.since("pyarrow", "26", "writes null vectors")
QUERY = "the green dog"


@pytest.fixture(scope="module")
def models() -> dict[str, ServedModel]:
    return served_models()


@pytest.fixture(scope="module")
def index(models: dict[str, ServedModel], tmp_path_factory: pytest.TempPathFactory) -> SearchIndex:
    return indexed(models["encoder"], tmp_path_factory.mktemp("index"))


@pytest.fixture(scope="module")
def app(models: dict[str, ServedModel], index: SearchIndex) -> Iterator[Any]:
    app = create_app([*models.values()], index=index)
    yield app
    app.state.service.scheduler.close()


@pytest.mark.parametrize("mode", ["hybrid", "vector", "text"])
def test_hits_are_those_of_the_index(app: Any, index: SearchIndex, models: dict[str, ServedModel], mode: str) -> None:
    vector = models["encoder"].model.encode(QUERY, models["encoder"].tokenizer, prompt_name="query")
    expected = index.search(QUERY, 5, mode=mode, where="n > 1", vector=vector)
    answer = ask(app, "/search", {"query": QUERY, "limit": 5, "mode": mode, "where": "n > 1"})
    assert answer.status_code == 200
    hits = answer.json()["hits"]
    assert [hit["id"] for hit in hits] == [hit.id for hit in expected]
    assert [hit["score"] for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-4)
    assert hits[0]["text"] == expected[0].text
    assert hits[0]["fields"] == expected[0].fields


@pytest.mark.parametrize("block", documented_requests("sh", "/search"))
def test_the_command_of_the_guide_works_as_written(app: Any, block: Block) -> None:
    assert len(ask_as_curl(app, block).json()["hits"]) == 3


def test_a_ranker_of_the_server_reads_the_candidates(
    app: Any, index: SearchIndex, models: dict[str, ServedModel]
) -> None:
    vector = models["encoder"].model.encode(QUERY, models["encoder"].tokenizer, prompt_name="query")
    texts = [hit.text for hit in index.search(QUERY, 8, vector=vector)]
    ranked = ask(app, "/rerank", {"query": QUERY, "texts": texts}).json()
    hits = ask(app, "/search", {"query": QUERY, "limit": 3, "candidates": 8, "rerank": True}).json()["hits"]
    assert [hit["text"] for hit in hits] == [texts[each["index"]] for each in ranked[:3]]
    assert [hit["score"] for hit in hits] == pytest.approx([each["score"] for each in ranked[:3]], abs=1e-6)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"query": QUERY, "where": "age > 3"}, 400, "No field named age"),
        ({"query": QUERY, "where": "n = 1; AND n = 2"}, 400, "has ';' at character 6"),
        ({"query": QUERY, "rerank": True, "limit": 9, "candidates": 8}, 400, "limit must be at most 8"),
        ({"query": QUERY, "mode": "fuzzy"}, 422, "mode: "),
        ({"query": QUERY, "limit": 0}, 422, "limit: "),
        ({"query": QUERY, "rerank": True, "model": "encoder"}, 400, "The model encoder cannot rerank"),
    ],
)
def test_bad_requests_are_refused(app: Any, body: dict[str, Any], status: int, message: str) -> None:
    answer = ask(app, "/search", body)
    assert answer.status_code == status
    assert message in answer.json()["error"]


def test_an_index_needs_its_own_model(models: dict[str, ServedModel], index: SearchIndex) -> None:
    said = r"The dense vectors of the index are from .*encoder, and no served model computes the same ones"
    with pytest.raises(ValueError, match=said + r" \(served encoders: none\)"):
        create_app([models["classifier"]], index=index)
    other = served_models()["encoder"]
    other.model.embed_tokens.weight.data.normal_()
    with pytest.raises(ValueError, match=r"\(served encoders: encoder\)\. Serve that model, too"):
        create_app([other], index=index)
