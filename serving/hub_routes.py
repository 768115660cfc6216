"""The route that Hugging Face's `InferenceClient` uses with a URL: every task of the Hub at one address."""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import ConfigDict, Field, ValidationError

from .responses import Body, StrictJsonRoute, invalid_body, json_response
from .served_model import EMBED, FILL_MASK, PREDICT
from .service import Service
from .tei_routes import EmbedBody, PredictBody, SimilarityBody, classify, compare_sentences, embed_texts
from .token_routes import FillMaskBody, fill_masks

AnyBody = TypeVar("AnyBody", bound=Body)


class HubBody(Body):
    """A request for what the model can do. Options are in `parameters`, or beside the texts."""

    # The options of the task, which each task checks.
    model_config = ConfigDict(extra="allow")
    inputs: Any
    parameters: dict[str, Any] | None = None
    model: str | None = None


class HubClassification(PredictBody):
    """A request for the labels of texts, with the options of the Hub."""

    function_to_apply: str | None = None
    top_k: int | None = Field(default=None, ge=1)


def hub_routes(service: Service) -> APIRouter:
    """Return the route."""
    routes = APIRouter(route_class=StrictJsonRoute)

    @routes.post("/")
    async def task(body: HubBody, request: Request) -> Response:
        if isinstance(body.inputs, dict):
            return await compare_sentences(service, _as(SimilarityBody, body.model_dump()), request)
        options = {**(body.model_extra or {}), **(body.parameters or {})}
        given = {**options, "inputs": body.inputs, "model": body.model}
        tasks = service.model(body.model, EMBED, PREDICT, FILL_MASK).tasks
        if EMBED in tasks:
            return await embed_texts(service, _as(EmbedBody, given), request)
        if PREDICT in tasks:
            wanted = _as(HubClassification, given)
            wanted.raw_scores = wanted.function_to_apply == "none"
            predictions = await classify(service, wanted, request)
            # The client of the Hub takes the first of a list, also for a single text.
            return json_response([each[: wanted.top_k] for each in predictions])
        return await fill_masks(service, _as(FillMaskBody, given), request)

    return routes


def _as(kind: type[AnyBody], given: dict[str, Any]) -> AnyBody:
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise invalid_body([{**each, "loc": ("body", *each["loc"])} for each in error.errors()]) from error
