"""The options of `sequence-encoder serve`, and their checks. Nothing here imports torch or the libraries of `serve`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields

from ..command_line import UsageError
from ..command_line.extras import require
from ..command_line.options import DEVICE, DTYPE, LABEL_NAMES_FILE, MAX_TOKENS, option
from ..command_line.parser import Command

KEY_VARIABLE = "SEQUENCE_ENCODER_API_KEY"


def check_libraries(purpose: str) -> None:
    """Check that the extra `serve` is installed, which `purpose` needs.

    Raises:
        MissingLibraryError: If it is not.
    """
    require(purpose, "fastapi", "orjson", "prometheus_client", "uvicorn", extra="serve")


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


@dataclass
class ServeArguments:
    """The models to serve, and how.

    Raises:
        UsageError: If a value is not allowed.
    """

    _argument_group_name = "server"

    model: list[str] = option(
        "Folder or Hub id of each model, which may also be exported. NAME=MODEL serves a model under another name."
    )
    host: str = option("Address to listen on.", "127.0.0.1")
    port: int = option("Port to listen on; 0 chooses a free one.", 8080)
    api_key: str | None = option(
        f"Key that requests must send. Other users of this machine can see it; the environment variable "
        f"{KEY_VARIABLE} hides it.",
        None,
    )
    dtype: str = option(default="auto", **DTYPE)
    device: str | None = option(default=None, **DEVICE)
    truncate: bool = option("Truncate texts that are too long instead of refusing them.", False)
    index: str | None = option(
        "Folder of an index from `sequence-encoder index`, to search it.", None, metavar="FOLDER"
    )
    label_file: str | None = option("CSV file from `sequence-encoder choose`, to label its texts in a browser.", None)
    label_names_file: str | None = option(default=None, **LABEL_NAMES_FILE)

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise UsageError(f"--port must be from 0 to {2**16 - 1}, got {self.port}.")
        self.api_key = self.api_key or os.environ.get(KEY_VARIABLE) or None
        check_api_key(self.api_key)
        if self.label_names_file is not None and self.label_file is None:
            raise UsageError("--label_names_file needs --label_file.")


SERVE = Command(
    "serve",
    "Serve models over HTTP: embeddings, ranking, labels, entities and masked words, for clients of OpenAI and TEI.",
    "sentence-transformers/all-MiniLM-L6-v2 --port 8080",
    (ServeArguments, ServerLimits),
    check=lambda options, limits: check_libraries("serve"),
)
