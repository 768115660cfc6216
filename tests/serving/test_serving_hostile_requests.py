"""A server refuses requests that cost it far more than they cost the client, and its error messages stay short."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("httpx")

from pydantic import ValidationError

from sequence_encoder import ServerLimits, create_app
from sequence_encoder.serving import guard, tei_routes
from sequence_encoder.serving.hub_routes import HubClassification
from sequence_encoder.serving.openai_routes import EmbeddingsBody, RerankBody
from sequence_encoder.serving.served_model import ServedModel
from sequence_encoder.serving.token_routes import DecodeBody
from sequence_encoder.tests.fixtures.serving_apps import ask, served_models

MANY = [True] * 1000


@pytest.fixture(scope="module")
def models() -> dict[str, ServedModel]:
    return served_models()


@pytest.fixture(scope="module")
def app(models: dict[str, ServedModel]) -> Any:
    limits = ServerLimits(max_texts=5, max_queue_tokens=30, max_body_bytes=2000)
    return create_app([models[name] for name in ("masked", "ranker", "classifier", "encoder")], limits)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (EmbeddingsBody, {"input": MANY}),
        (EmbeddingsBody, {"input": [MANY] * 10}),
        (RerankBody, {"query": "a", "documents": MANY}),
        (HubClassification, {"inputs": [MANY] * 10}),
        (DecodeBody, {"ids": [MANY] * 10}),
    ],
)
def test_only_the_first_of_many_mistakes_is_collected(kind: Any, body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as wrong:
        kind.model_validate(body)
    assert wrong.value.error_count() < 5


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/v1/rerank", {"query": "a" * 600, "documents": ["b"] * 4}, "2404 characters, counting the query"),
        ("/rerank", {"query": "a" * 600, "texts": ["b"] * 4}, "2404 characters, counting the query"),
        ("/decode", {"ids": [1] * 31}, "31 tokens, but the server accepts at most 30"),
        ("/tokenize", {"inputs": "a " * 40}, "42 tokens, but the server accepts at most 30"),
        ("/fill_mask", {"inputs": "[MASK] " * 6}, "6 masks, but the server accepts at most 5"),
    ],
)
def test_a_small_request_for_much_work_is_refused(app: Any, path: str, body: dict[str, Any], said: str) -> None:
    answer = ask(app, path, body)
    assert answer.status_code == 413
    assert said in answer.text


def test_more_token_vectors_than_a_server_can_send_are_refused(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"inputs": "a dog", "model": "encoder"}
    size = 24 * len(ask(app, "/embed_all", body).json()[0])
    monkeypatch.setattr(tei_routes, "_MOST_NUMBERS", size - 1)
    answer = ask(app, "/embed_all", body)
    assert answer.status_code == 413
    assert f"{size} numbers, but the server returns at most {size - 1}" in answer.json()["error"]


def test_threads_decode_tokens_so_that_others_are_answered(
    app: Any, models: dict[str, ServedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def decode(texts: Any, **options: Any) -> list[str]:
        threads.append(threading.current_thread())
        return ["found"] * len(texts)

    monkeypatch.setattr(models["masked"].tokenizer, "batch_decode", decode)
    assert ask(app, "/decode", {"ids": [[1], [2]]}).json() == ["found"] * 2
    assert threads[0] is not threading.main_thread()


@pytest.mark.parametrize("body", [b"a" * 2001, [b"a" * 1000] * 3], ids=["stated", "chunked"])
def test_a_client_that_sends_too_much_can_read_the_response(app: Any, body: Any) -> None:
    async def parts() -> Any:
        for part in body:
            yield part

    headers = {"Content-Type": "application/json"}
    answer = ask(app, "/embed", content=body if isinstance(body, bytes) else parts(), headers=headers)
    assert answer.status_code == 413
    # A closed connection would reach clients that still send before the response.
    assert "connection" not in answer.headers


def test_a_body_that_never_arrives_ends_the_request(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_BODY_SECONDS", 0)
    sent: list[Any] = []

    async def scenario() -> None:
        first = [{"type": "http.request", "body": b"{", "more_body": True}]

        async def receive() -> Any:
            return first.pop() if first else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            **{"type": "http", "method": "POST", "path": "/embed", "raw_path": b"/embed", "query_string": b""},
            **{"headers": [(b"content-type", b"application/json")], "http_version": "1.1", "scheme": "http"},
        }
        await asyncio.wait_for(app(scope, receive, send), 20)
        await asyncio.sleep(0)  # Raises if the task is still to be cancelled.

    asyncio.run(scenario())
    assert sent[0]["status"] == 408
    assert app.state.service.active == 0


@pytest.mark.parametrize("top_k", ["a", 1.5, -1, [1]])
def test_options_of_the_hub_are_checked(app: Any, top_k: Any) -> None:
    body = {"inputs": "a dog", "model": "classifier", "parameters": {"top_k": top_k}}
    answer = ask(app, "/", body)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("top_k: ")


def test_a_model_that_fails_has_the_status_of_each_protocol(
    models: dict[str, ServedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> Any:
        raise RuntimeError("private details")

    monkeypatch.setattr(ServedModel, "compute", fail)
    app = create_app([models["encoder"]])
    for path, field, status in (("/embed", "inputs", 424), ("/v1/embeddings", "input", 500)):
        answer = ask(app, path, {field: "a dog"})
        assert answer.status_code == status
        assert "private" not in answer.text
    assert ask(app, "/embed", {"inputs": "a dog"}).json()["error_type"] == "Backend"
    app.state.service.scheduler.close()
