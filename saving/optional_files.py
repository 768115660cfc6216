"""Finds files that a saved folder or a repository on the Hub may lack."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers.utils import cached_file

# Arguments of `from_pretrained` that choose a repository and its cache, and those that `cached_file` takes.
_CHOICES = ("cache_dir", "local_files_only", "revision", "token")
HUB_OPTIONS = (*_CHOICES, "force_download", "proxies")


def folder_with(files: list[str], name: str | os.PathLike[str], **options: Any) -> Path | None:
    """Return the folder of a checkpoint, in which some files are present if the checkpoint has them.

    Args:
        files: The names of the files, which are downloaded from a repository on the Hub.
        name: A folder or a Hub id.
        **options: Arguments of `from_pretrained`, of which those for the Hub are used.

    Returns:
        The folder, or None if the repository cannot be read. Loading the model then says why.
    """
    if os.path.exists(name):
        return Path(name)
    hub = {key: value for key, value in options.items() if key in _CHOICES and value is not None}
    try:
        # Unlike the download of a single file, it does not try again for half a minute if the Hub cannot be reached.
        return Path(snapshot_download(os.fspath(name), allow_patterns=files, **hub))
    except (OSError, HFValidationError):
        return None


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
