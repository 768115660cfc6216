"""The libraries of the extra `serve`. Nothing here imports them."""

from __future__ import annotations

from ..command_line.extras import require

_LIBRARIES = ("fastapi", "orjson", "prometheus_client", "uvicorn")


def check_libraries(purpose: str) -> None:
    """Check that the extra `serve` is installed.

    Args:
        purpose: What needs it, for the error.

    Raises:
        MissingLibraryError: If it is not.
    """
    require(purpose, *_LIBRARIES, extra="serve")
