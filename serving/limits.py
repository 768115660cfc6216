"""The limits of a server, and checks of its options. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from ..command_line import UsageError


def check_api_key(key: str | None) -> None:
    """Check that requests can send a key in a header.

    Raises:
        UsageError: If they cannot.
    """
    # A header has no spaces at its ends. Files with keys often end with a newline.
    if key is not None and not (key and key.isascii() and key.isprintable() and key == key.strip()):
        raise UsageError("--api_key must be printable ASCII text without spaces or newlines at its ends.")


def check_different(names: Sequence[str]) -> None:
    """Check that requests can choose between models by their names.

    Raises:
        UsageError: If they cannot, or if there are no models.
    """
    if not names or len(set(names)) < len(names):
        raise UsageError(
            f"A server needs models with different names, got {', '.join(names) or 'none'}. Put NAME= before a model "
            "to give it another name."
        )


@dataclass(frozen=True)
class Limits:
    """What a server takes at once.

    Attributes:
        max_batch_tokens: Maximum number of tokens that are computed together, unless a single text has more.
        max_queue_tokens: Maximum number of tokens that wait, of all requests. More are refused with status 429.
        max_texts: Maximum number of texts in a request. More are refused with status 413, as are larger bodies.
        max_body_bytes: Maximum size of the body of a request.

    Raises:
        UsageError: If one of them is less than 1.
    """

    max_batch_tokens: int = 1024
    max_queue_tokens: int = 500_000
    max_texts: int = 2048
    max_body_bytes: int = 8 * 2**20

    def __post_init__(self) -> None:
        for each in fields(self):
            if (value := getattr(self, each.name)) < 1:
                raise UsageError(f"--{each.name} must be at least 1, got {value}.")
