"""The pages of a server: where people try it in a browser, and where they label texts."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import Response


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
