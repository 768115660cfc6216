"""Recognises the folders of exported models, which have no weights for torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError

# The file that marks an exported model.
EXPORT_MANIFEST = "export.json"
_HUB_OPTIONS = ("cache_dir", "local_files_only", "revision", "token")


def is_exported(name: str | os.PathLike[str], **options: Any) -> bool:
    """Return whether a folder or a repository on the Hub holds an exported model.

    Args:
        name: The folder or the Hub id.
        **options: Arguments of `from_pretrained`, of which those for the Hub are used.
    """
    if os.path.exists(name):
        return (Path(name) / EXPORT_MANIFEST).is_file()
    hub = {key: value for key, value in options.items() if key in _HUB_OPTIONS and value is not None}
    try:
        # Unlike the download of a single file, it does not try again for half a minute if the Hub cannot be reached.
        folder = snapshot_download(os.fspath(name), allow_patterns=[EXPORT_MANIFEST], **hub)
    except (OSError, HFValidationError):
        # Loading the model then says why the repository cannot be read.
        return False
    return (Path(folder) / EXPORT_MANIFEST).is_file()


def check_not_exported(name: str | os.PathLike[str], **options: Any) -> None:
    """Check that a folder or a repository on the Hub does not hold an exported model.

    Args:
        name: The folder or the Hub id.
        **options: See `is_exported`.

    Raises:
        ValueError: If it does.
    """
    if is_exported(name, **options):
        raise ValueError(
            f"{name} is an exported model, which only `embed`, `predict`, `index`, `search`, `serve` and "
            "`sequence_encoder.export` can run. For anything else, use the model that it was exported from."
        )
