"""The options of `sequence-encoder serve`. Nothing here imports torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..command_line import UsageError
from ..command_line.options import DEVICE, DTYPE, LABEL_NAMES_FILE, option
from ..command_line.parser import Command
from .libraries import check_libraries
from .limits import ServerLimits, check_api_key

KEY_VARIABLE = "SEQUENCE_ENCODER_API_KEY"


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
    "Serve models over HTTP: embeddings, reranking, classification and fill-mask, for clients of OpenAI and TEI.",
    "sentence-transformers/all-MiniLM-L6-v2 --port 8080",
    (ServeArguments, ServerLimits),
    check=lambda options, limits: check_libraries("serve"),
)
