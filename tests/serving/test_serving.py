"""A server answers in the protocols of OpenAI and text-embeddings-inference with what the models compute."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("fastapi", reason="needs the extra serve")
httpx = pytest.importorskip("httpx")

from sequence_encoder import ServerLimits, create_app  # noqa: E402
from sequence_encoder.serving import served_model  # noqa: E402
from sequence_encoder.serving.served_model import ServedModel  # noqa: E402
from sequence_encoder.tests.fixtures.serving_apps import MAX_LENGTH, TEXTS, ask, served_models  # noqa: E402

LONG = " ".join(TEXTS * 5)


@pytest.fixture(scope="module")
def models() -> dict[str, ServedModel]:
    return served_models()


@pytest.fixture(scope="module")
def app(models: dict[str, ServedModel]) -> Iterator[Any]:
    app = create_app([*models.values()])
    yield app
    app.state.service.scheduler.close()


def encoded(models: dict[str, ServedModel], texts: Any = TEXTS, **options: Any) -> np.ndarray[Any, Any]:
    served = models["encoder"]
    return served.model.encode(texts, served.tokenizer, **options)


def logits_of(served: ServedModel, *texts: Any) -> torch.Tensor:
    """Compute logits with padding, as without a server."""
    inputs = served.tokenizer(*texts, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
    with torch.no_grad():
        return served.model(**inputs).logits.double()


def close(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(np.asarray(found, dtype=np.float64), np.asarray(wanted), atol=2e-5)


def test_openai_embeddings_in_base64_of_token_ids_and_of_fewer_dimensions(
    app: Any, models: dict[str, ServedModel]
) -> None:
    ids = models["encoder"].tokenizer(TEXTS)["input_ids"]
    for given, texts in ((ids, TEXTS), (ids[0], TEXTS[:1]), (TEXTS[1], TEXTS[1:2])):
        answer = ask(app, "/v1/embeddings", {"input": given, "encoding_format": "base64"}).json()
        found = [np.frombuffer(base64.b64decode(each["embedding"]), dtype="<f4") for each in answer["data"]]
        close(found, encoded(models, texts))
    answer = ask(app, "/v1/embeddings", {"input": TEXTS, "dimensions": 5}).json()
    close(
        [each["embedding"] for each in answer["data"]],
        encoded(models, truncate_dim=5, normalize_embeddings=True),
    )


def test_tei_embeddings_follow_their_options(app: Any, models: dict[str, ServedModel]) -> None:
    close(ask(app, "/embed", {"inputs": TEXTS}).json(), encoded(models))
    close(ask(app, "/embed", {"inputs": "a dog"}).json(), encoded(models, ["a dog"]))
    close(ask(app, "/embed", {"inputs": TEXTS, "normalize": False}).json(), encoded(models, normalize_embeddings=False))
    found = ask(app, "/embed", {"inputs": TEXTS, "prompt_name": "query", "dimensions": 7}).json()
    close(found, encoded(models, prompt_name="query", truncate_dim=7, normalize_embeddings=True))
    options = {"truncate": True, "truncation_direction": "Right"}
    close(ask(app, "/embed", {"inputs": LONG, **options}).json(), encoded(models, [LONG]))


def test_token_vectors_are_those_of_the_model(app: Any, models: dict[str, ServedModel]) -> None:
    found = ask(app, "/embed_all", {"inputs": TEXTS}).json()
    served = models["encoder"]
    for text, vectors in zip(TEXTS, found, strict=True):
        with torch.no_grad():
            close(vectors, served.model(**served.tokenizer(text, return_tensors="pt")).last_hidden_state[0])


def test_similarity_is_the_cosine(app: Any, models: dict[str, ServedModel]) -> None:
    body = {"inputs": {"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}}
    vectors = encoded(models, normalize_embeddings=True)
    close(ask(app, "/similarity", body).json(), vectors[1:] @ vectors[0])


def test_rerank_returns_the_best_texts_first(app: Any, models: dict[str, ServedModel]) -> None:
    logits = logits_of(models["ranker"], ["a red dog"] * len(TEXTS), TEXTS)[:, 0]
    order = logits.argsort(descending=True).tolist()
    body = {"query": "a red dog", "texts": TEXTS, "return_text": True}
    found = ask(app, "/rerank", body).json()
    assert [each["index"] for each in found] == order
    assert [each["text"] for each in found] == [TEXTS[index] for index in order]
    close([each["score"] for each in found], logits.sigmoid()[order])
    raw = ask(app, "/rerank", {**body, "raw_scores": True, "return_text": False}).json()
    close([each["score"] for each in raw], logits[order])
    assert {key for each in raw for key in each} == {"index", "score"}

    documents = [TEXTS[0], {"text": TEXTS[1]}, *TEXTS[2:]]
    body = {"model": "ranker", "query": "a red dog", "documents": documents, "top_n": 2, "return_documents": True}
    results = ask(app, "/v1/rerank", body).json()["results"]
    assert [each["index"] for each in results] == order[:2]
    assert [each["document"] for each in results] == [{"text": TEXTS[index]} for index in order[:2]]
    close([each["relevance_score"] for each in results], logits.sigmoid()[order[:2]])
    # Documents that are too long are cut, because only their order counts.
    assert ask(app, "/v1/rerank", {"query": "a dog", "documents": [LONG]}).status_code == 200


def test_predict_returns_the_labels_of_texts_and_of_pairs(app: Any, models: dict[str, ServedModel]) -> None:
    served = models["classifier"]
    options = {"model": "classifier"}
    single = ask(app, "/predict", {"inputs": TEXTS[0], **options}).json()
    wanted = logits_of(served, TEXTS[:1])[0].softmax(dim=0)
    order = wanted.argsort(descending=True).tolist()
    assert [each["label"] for each in single] == [("red", "green", "blue")[index] for index in order]
    close([each["score"] for each in single], wanted[order])
    pairs = [["a dog", "the owl"], ["a cat"], ["it", "is here"]]
    found = ask(app, "/predict", {"inputs": pairs, "raw_scores": True, **options}).json()
    for given, predictions in zip(pairs, found, strict=True):
        close(
            sorted(each["score"] for each in predictions), logits_of(served, *[[side] for side in given])[0].sort()[0]
        )
    assert (
        ask(app, "/predict", {"inputs": pairs[0], **options}).json()
        == ask(app, "/predict", {"inputs": pairs[:1], **options}).json()[0]
    )


@pytest.mark.parametrize("together", [1, 64])
def test_masks_are_filled_as_by_the_pipeline(
    app: Any, models: dict[str, ServedModel], monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    monkeypatch.setattr(served_model, "_MASKS", together)
    served = models["masked"]
    mask = served.tokenizer.mask_token
    text = f"the {mask} cat is {mask}"
    found = ask(app, "/fill_mask", {"inputs": [text, f"a {mask}"], "top_k": 3}).json()
    likely = logits_of(served, [text])[0].softmax(dim=-1)
    places = [
        i for i, token in enumerate(served.tokenizer(text)["input_ids"]) if token == served.tokenizer.mask_token_id
    ]
    for place, predictions in zip(places, found[0], strict=True):
        close([each["score"] for each in predictions], likely[place].topk(3).values)
        assert [each["token"] for each in predictions] == likely[place].topk(3).indices.tolist()
    assert all(each["sequence"].startswith("a") and len(each["token_str"]) for each in found[1])
    assert "has no" in ask(app, "/fill_mask", {"inputs": "a dog"}).json()["error"]


def test_tokens_and_back(app: Any, models: dict[str, ServedModel]) -> None:
    (tokens,) = ask(app, "/tokenize", {"inputs": "a dog"}).json()
    assert [each["id"] for each in tokens] == models["encoder"].tokenizer("a dog")["input_ids"]
    assert [each["text"] for each in tokens if not each["special"]] == ["a", "dog"]
    assert ask(app, "/decode", {"ids": [each["id"] for each in tokens]}).json() == ["a dog"]


def test_a_server_says_what_it_serves(app: Any) -> None:
    listed = ask(app, "/v1/models").json()["data"]
    assert [each["id"] for each in listed] == ["encoder", "ranker", "classifier", "masked"]
    assert ask(app, "/v1/models/ranker").json()["id"] == "ranker"
    info = ask(app, "/info").json()
    assert (info["model_id"], info["max_input_length"]) == ("encoder", MAX_LENGTH)
    assert info["model_type"] == {"embedding": {"pooling": "mean"}}
    assert ask(app, "/health").status_code == 200
    assert ask(app, "/health", method="HEAD").status_code == 200
    assert "/v1/embeddings" in ask(app, "/openapi.json").json()["paths"]


def test_a_server_without_an_index_says_how_to_get_one(app: Any) -> None:
    answer = ask(app, "/search", {"query": "a dog"})
    assert answer.status_code == 404
    assert answer.json()["error"] == "This server has no index. Start it with --index."


def test_metrics_count_requests_and_tokens(models: dict[str, ServedModel]) -> None:
    app = create_app([models["encoder"]])
    ask(app, "/embed", {"inputs": TEXTS})
    ask(app, "/embed", {"inputs": []})
    ask(app, "/secret/path")
    lines = ask(app, "/metrics").text.splitlines()
    tokens = sum(len(ids) for ids in models["encoder"].tokenizer(TEXTS)["input_ids"])
    for line in (
        'requests_total{route="/embed",status="200"} 1.0',
        'requests_total{route="/embed",status="400"} 1.0',
        'requests_total{route="other",status="404"} 1.0',
        f"texts_total {float(len(TEXTS))}",
        f"tokens_total {float(tokens)}",
        "queue_tokens 0.0",
    ):
        assert f"sequence_encoder_{line}" in lines


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"input": []}, 400, "no texts"),
        ({}, 400, "input: Field required"),
        ({"input": ["a", 3]}, 400, "input[1]"),
        ({"input": [[1], []]}, 400, "Text 1 has no tokens"),
        ({"input": [[1], [90_000]]}, 400, "Text 1 has token ids that are not from 0 to"),
        ({"input": [[1], [True]]}, 400, "input[1][0]"),
        ({"input": LONG}, 400, f"reads at most {MAX_LENGTH}"),
        ({"input": "a", "dimensions": 25}, 400, "dimensions must be from 1 to 24, got 25"),
        ({"input": "a", "dimensions": 0}, 400, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, 400, "encoding_format"),
        ({"input": "a", "model": "../../etc/passwd"}, 404, "There is no model"),
        ({"input": "a", "model": "classifier"}, 400, "cannot embed"),
        ({"input": "a", "prompt_name": "none"}, 400, "prompt_name must be one of"),
        ({"input": ["a"] * 101}, 413, "101 texts, but the server accepts at most 100"),
    ],
)
def test_mistakes_are_told_in_the_format_of_each_protocol(
    models: dict[str, ServedModel], body: dict[str, Any], status: int, said: str
) -> None:
    app = create_app([*models.values()], ServerLimits(max_texts=100))
    answer = ask(app, "/v1/embeddings", body)
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    if "encoding_format" not in body:
        answer = ask(app, "/embed", {("inputs" if key == "input" else key): value for key, value in body.items()})
        assert 400 <= answer.status_code < 500
        assert said.removeprefix("input") in answer.json()["error"]
        assert answer.json()["error_type"] == ("Empty" if said == "no texts" else "Validation")


@pytest.mark.parametrize("body", ['{"inputs": NaN}', '{"inputs": "\\ud800"}', "{", "[" * 100_000, "", "\xff"])
def test_bodies_that_are_not_json_are_refused(app: Any, body: str) -> None:
    answer = ask(app, "/embed", content=body.encode("latin-1"))
    assert 400 <= answer.status_code < 500
    assert set(answer.json()) == {"error", "error_type"}


def test_large_bodies_are_refused_whether_or_not_they_state_their_size(models: dict[str, ServedModel]) -> None:
    app = create_app([models["encoder"]], ServerLimits(max_body_bytes=1000))
    body = json.dumps({"inputs": "a" * 1000}).encode()

    async def parts() -> Any:
        for start in range(0, len(body), 100):
            yield body[start : start + 100]

    for content in (body, parts()):
        answer = ask(app, "/embed", content=content)
        assert (answer.status_code, answer.json()["error"]) == (413, "The body is larger than 1000 bytes.")


def test_a_key_opens_every_route(models: dict[str, ServedModel]) -> None:
    app = create_app([models["encoder"]], api_key="secret")
    for path in ("/v1/models", "/info", "/metrics", "/openapi.json", "/nothing"):
        assert ask(app, path).status_code == 401
    for given in ("Bearer secre", "Bearer secrets", "Bearer", "secret", "Basic secret", "Bearer s\u00e9cret"):
        answer = ask(app, "/embed", {"inputs": "a"}, headers={"Authorization": given.encode()})
        assert answer.status_code == 401
        assert "API key" in answer.json()["error"]
    for given in ("Bearer secret", "bearer secret"):
        assert ask(app, "/embed", {"inputs": "a"}, headers={"Authorization": given}).status_code == 200
    assert ask(app, "/health").status_code == 200
    with pytest.raises(ValueError, match="api_key"):
        create_app([models["encoder"]], api_key=" ")


def test_a_full_queue_says_when_to_come_back(models: dict[str, ServedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app([models["encoder"]], ServerLimits(max_queue_tokens=30))
    assert ask(app, "/embed", {"inputs": ["a dog"] * 20}).status_code == 413
    begun, go_on = threading.Event(), threading.Event()
    compute = ServedModel.compute

    def wait(*arguments: Any) -> Any:
        begun.set()
        go_on.wait(20)
        return compute(*arguments)

    monkeypatch.setattr(ServedModel, "compute", wait)

    async def scenario() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:

            def send() -> Any:
                return asyncio.create_task(client.post("/embed", json={"inputs": ["a dog"] * 5}))

            computed = send()
            await asyncio.to_thread(begun.wait, 20)
            waiting = send()
            while not app.state.service.scheduler.waiting_tokens:
                await asyncio.sleep(0)
            refused = await send()
            assert refused.status_code == 429
            assert int(refused.headers["Retry-After"]) >= 1
            assert refused.json()["error_type"] == "Overloaded"
            go_on.set()
            assert [(await each).status_code for each in (computed, waiting)] == [200, 200]

    asyncio.run(scenario())


def test_a_request_that_the_model_cannot_compute_fails_alone(
    models: dict[str, ServedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app([models["encoder"]])
    vectors = ServedModel._vectors

    def spoil(self: ServedModel, ids: list[list[int]], group: Any) -> Any:
        if any(len(text) == 5 for text in ids):
            raise MemoryError("private details")
        found = np.array(vectors(self, ids, group))
        found[[len(text) == 6 for text in ids]] = np.nan
        return found

    monkeypatch.setattr(ServedModel, "_vectors", spoil)

    async def scenario() -> list[Any]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
            bodies = [{"input": [[1, 2, 3, 4]]}, {"input": [[1] * 5, [2]]}, {"input": [[1] * 6]}, {"input": [[1, 2]]}]
            return await asyncio.gather(*(client.post("/v1/embeddings", json=body) for body in bodies))

    answers = asyncio.run(scenario())
    assert [answer.status_code for answer in answers] == [200, 500, 500, 200]
    assert [answer.json()["error"]["code"] for answer in answers[1:3]] == ["backend", "not_finite"]
    assert "private" not in answers[1].text


def test_the_server_stops_with_503(models: dict[str, ServedModel]) -> None:
    app = create_app([models["encoder"]])

    async def scenario() -> None:
        async with app.router.lifespan_context(app):
            assert not app.state.service.stopping

    asyncio.run(scenario())
    assert ask(app, "/health").status_code == 503
    assert ask(app, "/embed", {"inputs": "a"}).status_code == 503
