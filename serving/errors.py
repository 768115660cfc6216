"""Errors that a client sees, in the format of the protocol that it speaks."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi.responses import Response
from starlette.exceptions import HTTPException

# The prefix of the routes of OpenAI's protocol. All others follow text-embeddings-inference.
OPENAI_PREFIX = "/v1/"
# The types of errors of each protocol, by status.
_OPENAI_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
_TEI_TYPES = {424: "Backend", 429: "Overloaded", 500: "Backend", 503: "Unhealthy"}
# What text-embeddings-inference answers if a model fails, by our code.
_TEI_STATUSES = {"backend": 424, "not_finite": 424}


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
