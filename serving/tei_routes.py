"""The routes of text-embeddings-inference, which Hugging Face's clients and those of many libraries use."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

import numpy as np
import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BeforeValidator, Field

from ..data.vector_kinds import DOCUMENT, QUERY
from ..modeling.calibration.outputs import check_refusal
from ..saving.version import __version__
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
from .scores import probabilities, ranking, with_sets
from .served_model import EMBED, EMBED_ALL, EMBED_SPARSE, EXTRACT, FILL_MASK, PREDICT, RERANK, Group, Row, ServedModel
from .service import Service

# Of the vectors of all tokens, or of sparse vectors, which are far larger than the request; 200 MB of JSON.
_MOST_NUMBERS = 2**24
# Clients write it in lower case or capitalised.
Direction = Annotated[Literal["right"], BeforeValidator(lambda value: str(value).lower())]


class TruncatedBody(Body):
    """A request whose texts may be truncated."""

    truncate: bool | None = None
    truncation_direction: Direction = "right"


class TextsBody(TruncatedBody):
    """A request with texts. `model` is an addition, for servers with several models."""

    inputs: Texts
    model: str | None = None
    prompt_name: str | None = None


class EmbedBody(TextsBody):
    """A request for vectors."""

    normalize: bool | None = True
    dimensions: int | None = Field(default=None, ge=1)


class TextPairs(Body):
    """A sentence to compare with others."""

    source_sentence: str
    sentences: Items[str]


class SimilarityParameters(TruncatedBody):
    """Options of a comparison."""

    prompt_name: str | None = None


class SimilarityBody(Body):
    """A request to compare sentences."""

    inputs: TextPairs
    model: str | None = None
    parameters: SimilarityParameters | None = None


class RerankBody(TruncatedBody):
    """A request to rank texts."""

    query: str
    texts: Items[str]
    model: str | None = None
    raw_scores: bool = False
    return_text: bool = False


class PredictBody(TruncatedBody):
    """A request to classify a text, a pair of texts, or a list of lists that hold one text or a pair each.

    `coverage` and `abstain_below` are additions, for calibrated models.
    """

    inputs: str | Items[str] | Items[Items[str]]
    model: str | None = None
    raw_scores: bool = False
    coverage: float | None = None
    abstain_below: float | None = None


def tei_routes(service: Service) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(route_class=StrictJsonRoute)

    @routes.post("/embed")
    async def embed(body: EmbedBody, request: Request) -> Response:
        return await embed_texts(service, body, request)

    @routes.post("/embed_all")
    async def embed_all(body: TextsBody, request: Request) -> Response:
        return await _token_vectors(service, body, request)

    @routes.post("/embed_sparse")
    async def embed_sparse(body: TextsBody, request: Request) -> Response:
        return await _sparse_vectors(service, body, request)

    @routes.post("/similarity")
    async def similarity(body: SimilarityBody, request: Request) -> Response:
        return await compare_sentences(service, body, request)

    @routes.post("/rerank")
    async def rerank(body: RerankBody, request: Request) -> Response:
        return await _reranked(service, body, request)

    @routes.post("/predict")
    async def predict(body: PredictBody, request: Request) -> Response:
        predictions = await classify(service, body, request)
        return json_response(predictions[0] if _is_single(body.inputs) else predictions)

    @routes.get("/info")
    async def info() -> Response:
        return json_response(_info(service))

    return routes


async def embed_texts(service: Service, body: EmbedBody, request: Request) -> Response:
    """Return the vectors of texts."""
    model = service.model(body.model, EMBED)
    rows, prompt = await _rows_of(service, model, body)
    vectors = await service.embed(request, model, rows, prompt, body.normalize, body.dimensions)
    return Response(json_list(await json_vectors(vectors)), media_type="application/json")


async def _token_vectors(service: Service, body: TextsBody, request: Request) -> Response:
    """Return the vectors of all tokens of texts."""
    model = service.model(body.model, EMBED_ALL)
    rows, _ = await _rows_of(service, model, body)
    _check_numbers(sum(len(row.ids) for row in rows) * model.token_channels)
    texts = await service.compute(request, Group(model, EMBED_ALL, reading=_reading_of(body)), rows)
    written = []
    for vectors in texts:
        written.append(json_list(await json_vectors(np.ascontiguousarray(vectors))))
        # Other requests get their turn.
        await asyncio.sleep(0)
    return Response(json_list(written), media_type="application/json")


async def _sparse_vectors(service: Service, body: TextsBody, request: Request) -> Response:
    """Return the weights of texts that are not 0."""
    model = service.model(body.model, EMBED_SPARSE)
    rows, _ = await _rows_of(service, model, body)
    # Nobody knows how many weights of a text are not 0 before it is computed.
    numbers = 0

    def count(vector: Any) -> None:
        nonlocal numbers
        numbers += len(vector[1])
        _check_numbers(numbers)

    vectors = await service.compute(request, Group(model, EMBED_SPARSE), rows, count)
    written = []
    for indices, values in vectors:
        pairs = [{"index": index, "value": value} for index, value in zip(indices, values, strict=True)]
        written.append(orjson.dumps(pairs, option=orjson.OPT_SERIALIZE_NUMPY))
        await asyncio.sleep(0)
    return Response(json_list(written), media_type="application/json")


async def compare_sentences(service: Service, body: SimilarityBody, request: Request) -> Response:
    """Return the cosine of each sentence with the first."""
    model = service.model(body.model, EMBED)
    options = body.parameters or SimilarityParameters()
    prompt = service.prompt(model, options.prompt_name)
    service.check_number(len(body.inputs.sentences))
    texts = [body.inputs.source_sentence, *body.inputs.sentences]
    rows = await service.tokenize(model, texts, options.truncate, prompt)
    vectors = await service.embed(request, model, rows, prompt, normalize=True)
    return json_response(vectors[1:] @ vectors[0])


async def _reranked(service: Service, body: RerankBody, request: Request) -> Response:
    """Return the score of each text for the query, the best first."""
    model = service.model(body.model, RERANK)
    _, logits = await service.rank(request, model, body.query, body.texts, body.truncate)
    scores = (logits if body.raw_scores else probabilities(logits, several=True))[:, 0]
    return json_response(
        [
            {"index": index, **({"text": body.texts[index]} if body.return_text else {}), "score": score}
            for index, score in ranking(scores)
        ]
    )


async def classify(service: Service, body: PredictBody, request: Request) -> list[list[dict[str, Any]]]:
    """Return the labels of each text with their scores, the best first; see `with_sets` for a calibrated model."""
    model = service.model(body.model, PREDICT)
    try:
        check_refusal(model.calibration, body.coverage, body.abstain_below)
    except ValueError as error:
        raise RequestError(400, str(error), str(error).partition("=")[0]) from error
    rows = await service.tokenize(model, _sequences(body.inputs), body.truncate)
    found = await service.compute(request, Group(model, PREDICT), rows)
    logits = np.stack([each[0] if isinstance(each, tuple) else each for each in found])
    problem = model.model.config.problem_type
    several = problem == "multi_label_classification" or logits.shape[1] == 1
    scores = likely = probabilities(logits, several)
    if body.raw_scores or problem == "regression":
        scores = logits
    labels = model.labels
    results = [[{"score": score, "label": labels[index]} for index, score in ranking(row)] for row in scores]
    if model.calibration is None:
        return results
    p_values = [float(each[1]) if isinstance(each, tuple) else None for each in found]
    return with_sets(model.calibration, results, likely, labels, p_values, body.coverage, body.abstain_below)


async def _rows_of(service: Service, model: ServedModel, body: TextsBody) -> tuple[list[Row], str]:
    """Return the texts of a request, and the prompt that they start with."""
    texts = as_texts(body.inputs)
    prompt = "" if texts and isinstance(texts[0], list) else service.prompt(model, body.prompt_name)
    return await service.tokenize(model, texts, body.truncate, prompt, _reading_of(body)), prompt


def _reading_of(body: TextsBody) -> str:
    """Return how a model reads texts that tells queries from documents."""
    return QUERY if body.prompt_name == QUERY else DOCUMENT


def _check_numbers(numbers: int) -> None:
    """Check the number of numbers in a response."""
    if numbers > _MOST_NUMBERS:
        raise RequestError(
            413,
            f"The response would have at least {numbers} numbers, but the server returns at most {_MOST_NUMBERS}. Send "
            "fewer texts.",
        )


def _is_single(inputs: str | list[str] | list[list[str]]) -> bool:
    """Return whether a request has a single text or pair."""
    return isinstance(inputs, str) or (bool(inputs) and isinstance(inputs[0], str))


def _sequences(inputs: str | list[str] | list[list[str]]) -> list[Any]:
    """Return texts and pairs of texts."""
    sequences: list[Any] = [[inputs]] if isinstance(inputs, str) else [inputs] if _is_single(inputs) else list(inputs)
    if sizes := {len(each) for each in sequences} - {1, 2}:
        raise RequestError(422, f"inputs must be texts or pairs of texts, got a list of {min(sizes)}.", "inputs")
    return [each[0] if len(each) == 1 else tuple(each) for each in sequences]


def _info(service: Service) -> dict[str, Any]:
    """Describe the first model, as text-embeddings-inference does."""
    model, limits = service.models[0], service.limits
    config = model.encoder.config
    if EMBED in model.tasks:
        kind: dict[str, Any] = {"embedding": {"pooling": model.recipe.pooling[0]}}
    elif EMBED_SPARSE in model.tasks:
        kind = {"embedding": {"pooling": "splade"}}
    elif EMBED_ALL in model.tasks:
        kind = {"embedding": {"pooling": "none"}}
    elif PREDICT in model.tasks:
        labels = {"id2label": {str(i): name for i, name in enumerate(model.labels)}, "label2id": config.label2id}
        kind = {"reranker" if RERANK in model.tasks else "classifier": labels}
    else:
        kind = {FILL_MASK if FILL_MASK in model.tasks else EXTRACT: {}}
    return {
        "model_id": model.name,
        "model_sha": None,
        "model_dtype": model.dtype,
        "model_type": kind,
        "max_input_length": model.max_length,
        "max_batch_tokens": limits.max_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": limits.max_texts,
        "auto_truncate": service.truncate,
        "tokenization_workers": 1,
        "version": __version__,
    }
