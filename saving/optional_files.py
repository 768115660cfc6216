"""Finds files that a saved folder or a repository on the Hub may lack."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers.utils import cached_file

# Arguments of `from_pretrained` that `cached_file` takes.
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")


def optional_files(name: str, **options: Any) -> Callable[[str], str | None] | None:
    """Return a function that takes the path of a file in a folder or repository, and returns its local path or None.

    Args:
        name: A folder or a Hub id.
        **options: Arguments of `from_pretrained`, of which those for the Hub are used.

    Returns:
        The function, or None if there is no such folder and the name cannot be a Hub id.
    """
    if not os.path.isdir(name):
        try:
            validate_repo_id(name)
        except HFValidationError:
            return None
    quiet = dict.fromkeys(("gated_repo", "missing_entries", "connection_errors"), False)
    hub = {key: value for key, value in options.items() if key in HUB_OPTIONS and value is not None}
    hub |= {f"_raise_exceptions_for_{kind}": value for kind, value in quiet.items()}

    def find(file: str) -> str | None:
        found: str | None = cached_file(name, file, **hub)
        return found

    return find
