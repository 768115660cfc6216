"""The route that finds the entities of texts for the labels of a request."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from ..modeling.extraction.prepared_extraction import PreparedExtraction, TokenizedTexts
from ..modeling.extraction.text_windows import TooManyTokensError
from .responses import Body, Items, RequestError, StrictJsonRoute, json_response
from .served_model import EXTRACT, ServedModel, WindowRow
from .service import SHORT, Service


class ExtractBody(Body):
    """A request for the entities of texts."""

    inputs: str | Items[str]
    labels: Items[str] | dict[str, str]
    model: str | None = None
    threshold: float | None = Field(default=None, ge=0, le=1)
    nested: bool = False
    multi_label: bool = False


def extraction_routes(service: Service) -> APIRouter:
    """Return the route."""
    routes = APIRouter(route_class=StrictJsonRoute)

    @routes.post("/extract")
    async def extract(body: ExtractBody, request: Request) -> Response:
        model = service.model(body.model, EXTRACT)
        texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
        service.check_number(len(texts))
        if len(body.labels) > (most := service.limits.max_texts):
            raise RequestError(
                413, f"The request has {len(body.labels)} labels, but the server accepts at most {most}.", "labels"
            )
        read = tuple(body.labels.values() if isinstance(body.labels, dict) else body.labels)
        length = sum(map(len, texts)) + len(texts) * sum(map(len, read))
        service.check_characters(length, "the labels")
        given = (service, model, texts, body)
        prepared, tokenized = _tokenized(*given) if length <= SHORT else await asyncio.to_thread(_tokenized, *given)
        rows = [WindowRow(window, prepared) for window in tokenized.windows]
        # Texts without words have no windows.
        spans = await service.compute(request, model.extraction_group(read), rows) if rows else []

        def respond() -> Response:
            found = prepared.of_texts(tokenized, spans)
            return json_response(found[0] if isinstance(body.inputs, str) else found)

        return await asyncio.to_thread(respond)

    return routes


def _tokenized(
    service: Service, model: ServedModel, texts: list[str], body: ExtractBody
) -> tuple[PreparedExtraction, TokenizedTexts]:
    """Return the texts of a request in windows, with its labels before each, and what makes entities of spans."""
    general: Any = model.extraction
    try:
        prepared = general.for_labels(
            body.labels, threshold=body.threshold, nested=body.nested, multi_label=body.multi_label
        )
        return prepared, prepared.tokenize(texts, service.limits.max_queue_tokens)
    except TooManyTokensError as error:
        raise RequestError(413, str(error)) from error
    except ValueError as error:
        raise RequestError(400, str(error), "labels") from error
