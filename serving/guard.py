"""The middleware of every request: it checks the API key and the body's size, and records metrics."""

from __future__ import annotations

import asyncio
import hmac
import sys
import time
from collections.abc import MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .responses import RequestError, error_response
from .service import Service

# Routes without a key: probes have none, and the pages ask for it.
_OPEN = frozenset(("/", "/label", "/health"))
# Seconds in which a body must arrive. A client that never sends it would hold up the end of the server.
_BODY_SECONDS = 60
_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]


class Guard:
    """ASGI middleware that refuses requests without the key or with a body that is too large, and measures the others.

    Requests to `routes` are counted by path, and others together. Without a key, every request is welcome.
    """

    def __init__(self, app: ASGIApp, service: Service, routes: frozenset[str], api_key: str | None) -> None:
        self._app, self._service, self._routes = app, service, routes
        self._key = None if api_key is None else f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        self._service.active += 1
        try:
            refused = self._refused(scope, path)
            if refused is not None:
                await error_response(path, refused)(scope, receive, send_with_headers)
            else:
                await self._app(scope, self._bounded(receive), send_with_headers)
        finally:
            self._service.active -= 1
            route = path if path in self._routes else "other"
            self._service.metrics.request(route, status, time.perf_counter() - started)

    def _refused(self, scope: Scope, path: str) -> RequestError | None:
        headers = dict(scope["headers"])
        is_open = path in _OPEN and scope["method"] in ("GET", "HEAD")
        # Compares all bytes, so that the time says nothing about how many are right.
        if self._key is not None and not is_open and not hmac.compare_digest(_key(headers), self._key):
            return RequestError(
                401,
                "The API key is missing or wrong; send it as Authorization: Bearer KEY.",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if self._service.stopping and not is_open:
            return RequestError(503, "The server stops.", code="stopping", headers={"Retry-After": "1"})
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > self._service.limits.max_body_bytes:
            return self._too_large()
        return None

    def _bounded(self, receive: Receive) -> Receive:
        """Return a `receive` that fails if the body is too slow, or too large without having stated its length."""
        left = self._service.limits.max_body_bytes
        timer: asyncio.TimerHandle | None = None
        is_late = is_read = False

        def expire(task: asyncio.Task[Any]) -> None:
            nonlocal is_late
            is_late = True
            task.cancel()

        async def bounded() -> MutableMapping[str, Any]:
            nonlocal left, timer, is_read
            if is_read:
                return await receive()
            if timer is None:
                # Much cheaper than `asyncio.wait_for`, which makes a task for each call before Python 3.12.
                task = asyncio.current_task()
                assert task is not None
                timer = asyncio.get_running_loop().call_later(_BODY_SECONDS, expire, task)
            try:
                message = await receive()
            except asyncio.CancelledError:
                if not is_late:
                    timer.cancel()
                    raise
                if sys.version_info >= (3, 11):
                    asyncio.current_task().uncancel()  # type: ignore[union-attr]
                raise RequestError(
                    408, f"The body did not arrive within {_BODY_SECONDS} s.", headers={"Connection": "close"}
                ) from None
            left -= len(message.get("body", b""))
            if left < 0:
                timer.cancel()
                raise self._too_large()
            if not message.get("more_body", False):
                timer.cancel()
                is_read = True
            return message

        return bounded

    def _too_large(self) -> RequestError:
        most = self._service.limits.max_body_bytes
        # The connection stays open, and uvicorn discards the rest of the body: if it were closed, many clients would
        # report that instead of the response.
        return RequestError(413, f"The body is larger than {most} bytes.")


def _key(headers: dict[bytes, bytes]) -> bytes:
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    return scheme.capitalize() + b" " + key.strip()
