"""The route that searches an index, with the models of the server for the query and for reranking."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Literal

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from ..command_line import UsageError
from ..data.vector_kinds import DENSE, QUERY
from ..search.arguments import check_candidates
from ..search.query_encoding import text_vectors_encoding
from ..search.search_index import LEAST_COSINE, SearchIndex
from .responses import Body, RequestError, StrictJsonRoute
from .scores import probabilities
from .served_model import EMBED, RERANK, VECTOR_TASKS, Group, ServedModel
from .service import Service


class SearchBody(Body):
    """A request to search."""

    query: str
    limit: int = Field(default=10, ge=1, le=1000)
    mode: Literal["hybrid", "vector", "text"] = "hybrid"
    where: str | None = None
    rerank: bool = False
    candidates: int = Field(default=50, ge=1, le=1000)
    model: str | None = None


def search_routes(service: Service, index: SearchIndex) -> APIRouter:
    """Return the route.

    Raises:
        UsageError: If no model of the server has computed the vectors of the index.
    """
    # In a thread that ends, as in `load_served_model`.
    with ThreadPoolExecutor(1) as thread:
        encoder = thread.submit(_encoder_of, service, index).result()
    routes = APIRouter(route_class=StrictJsonRoute)

    @routes.post("/search")
    async def search(body: SearchBody, request: Request) -> Response:
        ranker = service.model(body.model, RERANK) if body.rerank else None
        vector = None
        if body.mode != "text":
            given = index.layout.query_prompt
            prompt = service.prompt(encoder, QUERY) if given is None else given
            rows = await service.tokenize(encoder, [body.query], True, prompt, QUERY)
            task = _task_of(index)
            if task == EMBED:
                dimensions = index.facts["dimensions"]
                (vector,) = await service.embed(request, encoder, rows, prompt, dimensions=dimensions)
            else:
                (vector,) = await service.compute(request, Group(encoder, task, reading=QUERY), rows)
        wanted = body.candidates if ranker else body.limit
        try:
            if ranker is not None:
                check_candidates(body.limit, body.candidates)
            hits = await asyncio.to_thread(
                index.search, body.query, wanted, mode=body.mode, where=body.where, vector=vector
            )
        except ValueError as error:
            raise RequestError(400, str(error)) from error
        if ranker is not None and hits:
            _, logits = await service.rank(request, ranker, body.query, [hit.text for hit in hits], True)
            scores = probabilities(logits, several=True)[:, 0]
            hits = [replace(hit, score=float(score)) for hit, score in zip(hits, scores, strict=True)]
            hits.sort(key=lambda hit: -hit.score)
        content = {"hits": [asdict(hit) for hit in hits[: body.limit]]}
        return Response(orjson.dumps(content, default=str), media_type="application/json")

    return routes


def _task_of(index: SearchIndex) -> str:
    """Return the task that computes the vectors of an index."""
    return VECTOR_TASKS[index.facts.get("vectors", [DENSE])[0]]


def _encoder_of(service: Service, index: SearchIndex) -> ServedModel:
    """Return the model whose vector of a text in the index is the one that is stored there."""
    encoders = [model for model in service.models if _task_of(index) in model.tasks]
    for model in encoders:
        encode = _encode_of(model, index)
        if encode is not None:
            cosine = index.cosine_to(encode)
            if cosine is None or cosine >= LEAST_COSINE:
                return model
    names = ", ".join(model.name for model in encoders) or "none"
    (kind,) = index.facts.get("vectors", [DENSE])
    raise UsageError(
        f"The {kind} vectors of the index are from {index.facts['model']}, and no served model computes the same ones "
        f"(served encoders: {names}). Serve that model, too; if it has a head, make the index with an encoder."
    )


def _encode_of(model: ServedModel, index: SearchIndex) -> Callable[[str], Any] | None:
    """Return what computes the vector of a text as in an index, or None if those of a model have another size."""
    facts, vectors = index.facts, model.vectors
    if isinstance(facts["dimensions"], list):
        # The task can be that of several kinds of models.
        if vectors is None or [vectors.channels(kind) for kind in facts["vectors"]] != facts["dimensions"]:
            return None
        return text_vectors_encoding(vectors, facts, None).document
    if model.recipe.channels(model.encoder.config.hidden_size) < facts["dimensions"]:
        return None
    return partial(
        model.encoder.encode,
        tokenizer=model.tokenizer,
        truncate_dim=facts["dimensions"],
        prompt=facts["prompt"],
        max_length=facts["max_length"],
        show_progress_bar=False,
    )
