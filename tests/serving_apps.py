"""Tiny models behind a server, and clients that reach it without a port."""

from __future__ import annotations

import asyncio
import json
import shlex
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import torch

from sequence_encoder import (
    SequenceEncoderForMaskedLM,
    SequenceEncoderForSequenceClassification,
    SequenceEncoderModel,
    SequenceEncoderTokenizer,
    create_app,
)
from sequence_encoder.modeling.text_encoding.embedding_recipe import EmbeddingRecipe, Normalize
from sequence_encoder.serving.served_model import ServedModel
from sequence_encoder.tests.guides import ROOT, Block, blocks_of
from sequence_encoder.tests.vector_folders import tiny_bert

if TYPE_CHECKING:
    from sequence_encoder import SearchIndex

TEXTS = ["the red cat is here", "a dog", "we saw the green owl by the blue dog", "it"]
PROMPTS = {"prompts": {"query": "where is ", "document": ""}, "default_prompt_name": None}
MAX_LENGTH = 24


def served_models() -> dict[str, ServedModel]:
    """Return an encoder, a cross-encoder, a classifier and a masked language model, with random weights."""
    tokenizer = SequenceEncoderTokenizer.train_from_iterator(TEXTS * 5, vocab_size=90, show_progress=False)
    tokenizer.model_max_length = MAX_LENGTH
    torch.manual_seed(0)

    def build(kind: Any, **fields: Any) -> Any:
        return kind(tiny_bert(tokenizer, max_position_embeddings=64, **fields)).eval()

    encoder = build(SequenceEncoderModel)
    encoder.embedding_recipe = EmbeddingRecipe(after=(Normalize(),), settings=PROMPTS)
    labels = {"id2label": {0: "red", 1: "green", 2: "blue"}, "label2id": {"red": 0, "green": 1, "blue": 2}}
    models = {
        "encoder": encoder,
        "ranker": build(SequenceEncoderForSequenceClassification, num_labels=1),
        "classifier": build(SequenceEncoderForSequenceClassification, **labels),
        "masked": build(SequenceEncoderForMaskedLM),
    }
    return {name: ServedModel(name, model, tokenizer) for name, model in models.items()}


def indexed(encoder: ServedModel, folder: Path) -> SearchIndex:
    """Make an index of 24 texts, with a column `n` of numbers."""
    from sequence_encoder import SearchIndex, index_corpus  # An extra that most callers do without.

    encoder.model.save_pretrained(folder / "encoder")
    encoder.tokenizer.save_pretrained(folder / "encoder")
    rows = [{"text": f"{text} {number}", "n": number} for number in range(6) for text in TEXTS]
    (folder / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = {"columns": "n", "dtype": "float32"}
    index_corpus(str(folder / "encoder"), str(folder / "texts.jsonl"), str(folder / "index"), **options)
    return SearchIndex(folder / "index")


def ask(app: Any, path: str, body: Any = None, **options: Any) -> httpx.Response:
    """Send a request to an application in this process: POST with a body, or else GET or `method`."""

    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
            if body is None and "content" not in options:
                return await client.request(options.pop("method", "GET"), path, **options)
            if "content" in options:
                options.setdefault("headers", {"Content-Type": "application/json"})
                return await client.post(path, **options)
            return await client.post(path, json=body, **options)

    return asyncio.run(send())


def documented_requests(language: str, route: str = "") -> list[Any]:
    """Return the blocks of docs/serve.md with requests to a server: Python, or curl with a route."""
    address = f"http://127.0.0.1:8080{route}"
    blocks = [block for block in blocks_of(ROOT / "docs" / "serve.md") if block.language == language]
    return [pytest.param(block, id=block.name) for block in blocks if address in block.code]


def ask_as_curl(app: Any, block: Block) -> httpx.Response:
    """Send the request of a block with one curl command to an application in this process."""
    command, url, option, header, data, body = shlex.split(block.code.replace("\\\n", " "))
    assert (command, option, data) == ("curl", "-H", "-d")
    name, _, value = header.partition(": ")
    return ask(app, url.removeprefix("http://127.0.0.1:8080"), content=body, headers={name: value})


def listening(*models: ServedModel, **options: Any) -> Iterator[str]:
    """Serve models on a port of this process, and yield the address."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(create_app(models, **options), log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)
