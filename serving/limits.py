"""The limits of a server, and checks of its options. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from ..command_line import UsageError
from ..command_line.options import MAX_TOKENS, option


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
class ServerLimits:
    """The limits of a server. A single text may have more tokens than a batch.

    Raises:
        UsageError: If one of them is less than 1.
    """

    _argument_group_name = "limits"

    max_tokens: int = option(default=1024, **MAX_TOKENS)
    max_queue_tokens: int = option(
        "Maximum number of tokens in waiting requests; requests beyond it get status 429.", 500_000
    )
    max_texts: int = option("Maximum number of texts in a request; larger requests get status 413.", 2048)
    max_body_bytes: int = option("Maximum size of a request; larger requests get status 413.", 8 * 2**20)

    def __post_init__(self) -> None:
        for each in fields(self):
            if (value := getattr(self, each.name)) < 1:
                raise UsageError(f"--{each.name} must be at least 1, got {value}.")
