"""OpenAI's routes: embeddings and models, and reranking as clients of Cohere and Jina ask for it."""

from __future__ import annotations

import uuid
from typing import Any, Literal

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from .responses import (
    Body,
    Items,
    RequestError,
    StrictJsonRoute,
    Texts,
    as_texts,
    json_list,
    json_response,
    json_vectors,
)
from .scores import probabilities, ranking
from .served_model import EMBED, FILL_MASK, RERANK, Row, ServedModel
from .service import Service


class EmbeddingsBody(Body):
    """A request for embeddings. `truncate` and `prompt_name` are additions to OpenAI's protocol."""

    input: Texts
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1)
    truncate: bool | None = None
    prompt_name: str | None = None


class Document(Body):
    """A document to rank."""

    text: str


class RerankBody(Body):
    """A request to rank documents."""

    query: str
    documents: Items[str | Document]
    model: str | None = None
    top_n: int | None = Field(default=None, ge=1)
    return_documents: bool | None = None
    truncate: bool | None = None


def openai_routes(service: Service) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1", route_class=StrictJsonRoute)

    @routes.get("/models")
    async def models() -> Response:
        return json_response({"object": "list", "data": [_describe(service, model) for model in service.models]})

    @routes.get("/models/{name:path}")
    async def model(name: str) -> Response:
        return json_response(_describe(service, service.named(name)))

    @routes.post("/embeddings")
    async def embeddings(body: EmbeddingsBody, request: Request) -> Response:
        return await _embeddings(service, body, request)

    @routes.post("/rerank")
    async def rerank(body: RerankBody, request: Request) -> Response:
        return await _reranked(service, body, request)

    return routes


def _describe(service: Service, model: ServedModel) -> dict[str, Any]:
    """Describe a model as OpenAI does, and what it can do."""
    return {
        "id": model.name,
        "object": "model",
        "created": service.started,
        "owned_by": "sequence-encoder",
        "tasks": model.tasks,
        "max_length": model.max_length,
        **({"mask_token": model.tokenizer.mask_token} if FILL_MASK in model.tasks else {}),
    }


async def _embeddings(service: Service, body: EmbeddingsBody, request: Request) -> Response:
    """Return the vectors of texts, or of token ids."""
    model = service.model(body.model, EMBED)
    texts = as_texts(body.input)
    # Lists of token ids contain whatever prompt the client wants.
    has_ids = bool(texts) and isinstance(texts[0], list)
    if has_ids and body.prompt_name is not None:
        raise RequestError(400, "prompt_name has no effect on token ids; leave it out.", "prompt_name")
    prompt = "" if has_ids else service.prompt(model, body.prompt_name)
    rows = await service.tokenize(model, texts, body.truncate, prompt)
    vectors = await service.embed(request, model, rows, prompt, dimensions=body.dimensions)
    written = await json_vectors(vectors, base64=body.encoding_format == "base64")
    items = [
        b'{"object":"embedding","index":%d,"embedding":%b}' % (index, vector) for index, vector in enumerate(written)
    ]
    content = b'{"object":"list","data":%b,"model":%b,"usage":%b}' % (
        json_list(items),
        orjson.dumps(model.name),
        orjson.dumps(_usage(rows)),
    )
    return Response(content, media_type="application/json")


async def _reranked(service: Service, body: RerankBody, request: Request) -> Response:
    """Return the documents, the best first."""
    model = service.model(body.model, RERANK)
    documents = [each if isinstance(each, str) else each.text for each in body.documents]
    # Documents are longer than a model reads more often than not, and only their order is asked for.
    truncate = True if body.truncate is None else body.truncate
    rows, logits = await service.rank(request, model, body.query, documents, truncate)
    scores = probabilities(logits, several=True)[:, 0]
    results = [
        {
            "index": index,
            "relevance_score": score,
            **({"document": {"text": documents[index]}} if body.return_documents else {}),
        }
        for index, score in ranking(scores)[: body.top_n]
    ]
    return json_response(
        {"id": f"rerank-{uuid.uuid4().hex}", "model": model.name, "results": results, "usage": _usage(rows)}
    )


def _usage(rows: list[Row]) -> dict[str, int]:
    """Return the tokens of a request, as OpenAI counts them."""
    tokens = sum(len(row.ids) for row in rows)
    return {"prompt_tokens": tokens, "total_tokens": tokens}
