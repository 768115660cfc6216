"""The limits of a server. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..command_line import UsageError


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
