"""JSON in and out of a server: strict requests, and responses whose vectors are written without Python lists."""

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

# Numbers to write before other requests get their turn on the event loop, a millisecond's worth.
_PART = 32_768

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
