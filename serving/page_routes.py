"""The pages of a server, on which people try it and label texts, and the routes for its health and its metrics."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import Field

from ..data.label_file import LABEL, REASON, TEXT, ConflictError, LabelFile
from .responses import Body, RequestError, StrictJsonRoute, json_response
from .service import Service


def page_route(path: str = "/", file: str = "page.html") -> APIRouter:
    """Return the route of a page. The page loads nothing from elsewhere, and may only talk to its own server.

    Args:
        path: The path of the page.
        file: The name of its file in this folder.
    """
    routes = APIRouter()
    page = Path(__file__).with_name(file).read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; script-src {_hash_of(page, 'script')}; style-src {_hash_of(page, 'style')}; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"}

    @routes.head(path, include_in_schema=False)
    @routes.get(path, include_in_schema=False)
    async def show() -> Response:
        return Response(page, headers=headers, media_type="text/html")

    return routes


def _hash_of(page: str, tag: str) -> str:
    """Return the source expression that allows the content of a tag, and no other."""
    (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return f"'sha256-{digest}'"


class LabelBody(Body):
    """A label for a text."""

    row: int = Field(ge=0)
    label: str
    before: str = ""


def label_routes(labels: LabelFile) -> APIRouter:
    """Return the routes that the page asks on which people label texts."""
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


def status_routes(service: Service) -> APIRouter:
    """Return the routes."""
    routes = APIRouter()

    @routes.head("/health", include_in_schema=False)
    @routes.get("/health")
    async def health() -> Response:
        return Response(status_code=503 if service.stopping else 200)

    @routes.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return routes
