"""The routes of the page on which people label texts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from ..labelling.label_file import LABEL, REASON, TEXT, ConflictError, LabelFile
from .errors import RequestError
from .responses import Body, StrictJsonRoute, json_response


class LabelBody(Body):
    """A label for a text."""

    row: int = Field(ge=0)
    label: str
    before: str = ""


def label_routes(labels: LabelFile) -> APIRouter:
    """Return the routes that the page asks.

    Args:
        labels: The file.
    """
    routes = APIRouter(route_class=StrictJsonRoute)

    async def answer(action: Callable[..., Any], *given: object) -> Any:
        """Act on the file in a thread."""
        try:
            return await asyncio.to_thread(action, *given)
        except ConflictError as error:
            raise RequestError(409, str(error)) from error
        except ValueError as error:
            raise RequestError(400, str(error)) from error
        except OSError as error:
            raise RequestError(500, f"The file cannot be read or written: {error.strerror or error}.") from error

    @routes.get("/labels")
    async def show() -> Response:
        await answer(labels.update)
        rows = [{name: row.get(name, "") for name in (TEXT, LABEL, REASON)} for row in labels.rows]
        return json_response({"rows": rows, "names": labels.names})

    @routes.post("/labels")
    async def save(body: LabelBody, request: Request) -> Response:
        origin = request.headers.get("origin")
        # Browsers send some requests of other sites without asking.
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            raise RequestError(403, "Only the page of this server may label texts.")
        await answer(labels.set, body.row, body.label, body.before)
        return json_response({"names": labels.names})

    @routes.get("/labels.csv")
    async def download() -> Response:
        content = await answer(labels.content)
        return Response(
            content, media_type="text/csv", headers={"Content-Disposition": 'attachment; filename="labels.csv"'}
        )

    return routes
