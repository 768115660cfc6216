"""JSON in and out of a server: strict requests, responses with vectors, and errors in the format of each protocol."""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypeVar

import numpy as np
import orjson
from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, FailFast, Field
from starlette.exceptions import HTTPException

# Numbers to write before other requests get their turn on the event loop, a millisecond's worth.
_PART = 32_768
# The prefix of the routes of OpenAI's protocol. All others follow text-embeddings-inference.
OPENAI_PREFIX = "/v1/"
# The types of errors of each protocol, by status.
_OPENAI_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
_TEI_TYPES = {424: "Backend", 429: "Overloaded", 500: "Backend", 503: "Unhealthy"}
# What text-embeddings-inference answers if a model fails, by our code.
_TEI_STATUSES = {"backend": 424, "not_finite": 424}

Item = TypeVar("Item")


class _FirstMistake(FailFast):
    """Stops at the first wrong item. With an error for each, a body of a few megabytes could take gigabytes."""

    # As `X | Y` needs.
    __hash__ = object.__hash__


Items = Annotated[list[Item], _FirstMistake()]
Texts = Annotated[str | Items[str] | Items[int] | Items[Items[int]], Field(description="texts, or lists of token ids")]


class Body(BaseModel):
    """The body of a request. Values are not converted, and fields that a server does not know are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", protected_namespaces=())


class StrictJsonRequest(Request):
    """A request whose JSON must be valid: NaN, and halves of surrogate pairs, are refused."""

    async def json(self) -> Any:
        """Return the parsed body."""
        return orjson.loads(await self.body())


class StrictJsonRoute(APIRoute):
    """A route whose requests are `StrictJsonRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See `APIRoute`."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(StrictJsonRequest(request.scope, request.receive))

        return handle


def as_texts(given: Any) -> list[Any]:
    """Return the texts of a field that takes one or several, each as a string or as token ids."""
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        return [given]
    return list(given)


def json_response(content: Any) -> Response:
    """Return a JSON response. Arrays of NumPy are allowed."""
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


async def json_vectors(vectors: np.ndarray[Any, Any], base64: bool = False) -> list[bytes]:
    """Write each vector as a JSON array of numbers, or as a string of base64 with its bytes in float32.

    Args:
        vectors: (N, D) float32, contiguous.
        base64: Whether to write base64.
    """
    written: list[bytes] = []
    step = max(1, _PART // max(1, vectors.shape[1]))
    for start in range(0, len(vectors), step):
        if start:
            await asyncio.sleep(0)
        for vector in vectors[start : start + step]:
            if base64:
                written.append(b'"' + binascii.b2a_base64(vector.astype("<f4", copy=False), newline=False) + b'"')
            else:
                written.append(orjson.dumps(vector, option=orjson.OPT_SERIALIZE_NUMPY))
    return written


def json_list(parts: list[bytes]) -> bytes:
    """Return a JSON array of values that are written already."""
    return b"[" + b",".join(parts) + b"]"


class RequestError(HTTPException):
    """A request that fails, with a message for the client.

    Args:
        status: The status of the response.
        message: What is wrong, and what to do.
        param: The field of the request that is wrong.
        code: A word for programs, in OpenAI's protocol.
        headers: Headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.param, self.code = param, code


def error_response(path: str, error: HTTPException) -> Response:
    """Return an error in the format of the protocol of a path."""
    status, message = error.status_code, str(error.detail)
    content: dict[str, Any]
    if path.startswith(OPENAI_PREFIX):
        # Only what is too much for the server has another status than 400 there.
        status = 400 if status == 422 or getattr(error, "code", None) == "context_length_exceeded" else status
        kind = _OPENAI_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
        param, code = getattr(error, "param", None), getattr(error, "code", None)
        content = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    else:
        code = getattr(error, "code", None)
        status = _TEI_STATUSES.get(code or "", status)
        content = {"error": message, "error_type": "Empty" if code == "empty" else _TEI_TYPES.get(status, "Validation")}
    return Response(orjson.dumps(content), status, error.headers, "application/json")


def invalid_body(errors: list[Any]) -> RequestError:
    """Return the error for a body that is not JSON, or lacks fields of a request, given the errors of pydantic."""
    # A field with alternatives has an error for each; the one that got furthest names the item.
    worst = max(errors, key=lambda each: len(each["loc"]))
    if worst["type"] == "json_invalid":
        return RequestError(400, f"The body is not valid JSON: {worst['ctx']['error']}.", code="invalid_json")
    # Items of lists are numbers. The other parts are the names of fields, and of alternatives, which have brackets.
    place = "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}"
        for part in worst["loc"][1:]
        if isinstance(part, int) or (part.isidentifier() and part not in ("str", "int"))
    ).removeprefix(".")
    message = f"{place or 'The body'}: {worst['msg']}. The body must be JSON, with Content-Type: application/json."
    return RequestError(422, message if not place else f"{place}: {worst['msg']}", param=place or None)
