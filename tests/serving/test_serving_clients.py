"""The clients that people have get their answers from a server: those of OpenAI, Hugging Face and LangChain."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
uvicorn = pytest.importorskip("uvicorn", reason="needs the extra serve")

from huggingface_hub import InferenceClient  # noqa: E402

from sequence_encoder import ServerLimits, create_app  # noqa: E402
from sequence_encoder.serving.served_model import ServedModel  # noqa: E402
from sequence_encoder.tests.fixtures.guides import Block  # noqa: E402
from sequence_encoder.tests.fixtures.serving_apps import (  # noqa: E402
    TEXTS,
    ask_as_curl,
    documented_requests,
    listening,
    served_models,
)

# The name in the guide's first command.
DOCUMENTED = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture(scope="module")
def models() -> dict[str, ServedModel]:
    return served_models()


@pytest.fixture(scope="module")
def address(models: dict[str, ServedModel]) -> Iterator[str]:
    yield from listening(*models.values(), api_key="key", limits=ServerLimits(max_texts=10))


@pytest.fixture(scope="module")
def vectors(models: dict[str, ServedModel]) -> np.ndarray[Any, Any]:
    return models["encoder"].model.encode(TEXTS, models["encoder"].tokenizer)


def test_openai(address: str, vectors: np.ndarray[Any, Any]) -> None:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{address}/v1", api_key="key", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["encoder", "ranker", "classifier", "masked"]
        for format_ in ({}, {"encoding_format": "float"}):
            found = client.embeddings.create(model="encoder", input=TEXTS, **format_)
            np.testing.assert_allclose([each.embedding for each in found.data], vectors, atol=2e-5)
        assert len(client.embeddings.create(model="encoder", input="a dog", dimensions=3).data[0].embedding) == 3
        with pytest.raises(openai.BadRequestError, match="no texts"):
            client.embeddings.create(model="encoder", input=[])
        with pytest.raises(openai.NotFoundError, match="There is no model 'gpt'"):
            client.embeddings.create(model="gpt", input="a")
        with pytest.raises(openai.APIStatusError, match="at most 10"):
            client.embeddings.create(model="encoder", input=["a"] * 11)
        with pytest.raises(openai.AuthenticationError, match="API key"):
            client.with_options(api_key="other").models.list()


@pytest.fixture
def _online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client of the Hub connect to this machine, whatever the environment says."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.mark.usefixtures("_online")
def test_the_client_of_the_hub(address: str, vectors: np.ndarray[Any, Any]) -> None:
    client = InferenceClient(address, token="key")
    np.testing.assert_allclose(client.feature_extraction(TEXTS[0]), vectors[:1], atol=2e-5)
    options = {"normalize": True, "truncate": True, "truncation_direction": "right", "prompt_name": "document"}
    np.testing.assert_allclose(client.feature_extraction(TEXTS[1], **options), vectors[1:2], atol=2e-5)
    np.testing.assert_allclose(client.sentence_similarity(TEXTS[0], TEXTS[1:]), (vectors @ vectors[0])[1:], atol=2e-5)


@pytest.mark.usefixtures("_online")
@pytest.mark.parametrize("name", ["classifier", "masked"])
def test_the_client_of_the_hub_with_a_head(models: dict[str, ServedModel], name: str) -> None:
    for address in listening(models[name]):
        client = InferenceClient(address)
        if name == "classifier":
            found = client.text_classification(TEXTS[0], top_k=2)
            assert [type(each.label) for each in found] == [str, str]
            assert 1 >= found[0].score >= found[1].score > 0
        else:
            filled = client.fill_mask(f"a {models[name].tokenizer.mask_token} dog", top_k=4)
            assert len(filled) == 4
            assert all(each.sequence.startswith("a") for each in filled)


@pytest.mark.usefixtures("_online")
@pytest.mark.parametrize("block", documented_requests("python"))
def test_the_clients_of_the_guide_work_as_written(
    models: dict[str, ServedModel], block: Block, capsys: pytest.CaptureFixture[str]
) -> None:
    for needed in ("openai", "langchain_openai"):
        if needed in block.code:
            pytest.importorskip(needed)
    for address in listening(ServedModel(DOCUMENTED, models["encoder"].model, models["encoder"].tokenizer)):
        code = block.code.replace("http://127.0.0.1:8080", address)
        exec(compile(code, block.name, "exec"), {"__name__": "__main__"})
    assert str(models["encoder"].model.config.hidden_size) in capsys.readouterr().out


@pytest.mark.parametrize(
    "block", [each for route in ("embed ", "v1/") for each in documented_requests("sh", f"/{route}")]
)
def test_the_commands_of_the_guide_work_as_written(models: dict[str, ServedModel], block: Block) -> None:
    app = create_app([*models.values()])
    answer = ask_as_curl(app, block)
    app.state.service.scheduler.close()
    assert answer.status_code == 200, answer.text
    assert answer.json()


def test_langchain(address: str, vectors: np.ndarray[Any, Any]) -> None:
    langchain = pytest.importorskip("langchain_openai")
    embeddings = langchain.OpenAIEmbeddings(
        base_url=f"{address}/v1", api_key="key", model="encoder", check_embedding_ctx_length=False
    )
    np.testing.assert_allclose(embeddings.embed_documents(TEXTS), vectors, atol=2e-5)
    np.testing.assert_allclose(embeddings.embed_query(TEXTS[0]), vectors[0], atol=2e-5)


def test_llama_index(address: str, vectors: np.ndarray[Any, Any]) -> None:
    module = pytest.importorskip("llama_index.embeddings.text_embeddings_inference")
    client = module.TextEmbeddingsInference(
        model_name="encoder", base_url=address, auth_token="key", query_instruction="", text_instruction=""
    )
    np.testing.assert_allclose(client.get_text_embedding_batch(TEXTS), vectors, atol=2e-5)
    np.testing.assert_allclose(client.get_query_embedding(TEXTS[0]), vectors[0], atol=2e-5)


def test_a_client_that_leaves_is_not_computed(models: dict[str, ServedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on, computed = threading.Event(), threading.Event(), []
    compute = ServedModel.compute

    def wait(self: ServedModel, group: Any, rows: list[Any]) -> Any:
        computed.extend(len(row.ids) for row in rows)
        begun.set()
        go_on.wait(20)
        return compute(self, group, rows)

    monkeypatch.setattr(ServedModel, "compute", wait)
    app = create_app([models["encoder"]])
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    waiting = app.state.service.scheduler
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()

        def send(*ids: int) -> HTTPConnection:
            connection = HTTPConnection(*listener.getsockname(), timeout=20)
            body = json.dumps({"inputs": [list(ids)]})
            connection.request("POST", "/embed", body, {"Content-Type": "application/json"})
            return connection

        first = send(1)
        begun.wait(20)
        leaving = send(1, 2, 3)
        while waiting.waiting_tokens != 3:
            pass
        leaving.close()
        while waiting.waiting_tokens:
            pass
        last = send(1, 2)
        while waiting.waiting_tokens != 2:
            pass
        go_on.set()
        assert [connection.getresponse().status for connection in (first, last)] == [200, 200]
        first.close()
        last.close()
        server.should_exit = True
        thread.join(20)
    assert computed == [1, 2]
