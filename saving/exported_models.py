"""Recognises the folders of exported models, which have no weights for torch."""

from __future__ import annotations

import os
from typing import Any

from .optional_files import folder_with

# The file that marks an exported model.
EXPORT_MANIFEST = "export.json"


def is_exported(name: str | os.PathLike[str], **options: Any) -> bool:
    """Return whether a folder or a repository on the Hub holds an exported model.

    Args:
        name: The folder or the Hub id.
        **options: Arguments of `from_pretrained`, of which those for the Hub are used.
    """
    folder = folder_with([EXPORT_MANIFEST], name, **options)
    return folder is not None and (folder / EXPORT_MANIFEST).is_file()


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
            f"{name} is an exported model, which only `embed`, `predict`, `extract`, `index`, `search`, "
            "`serve` and `sequence_encoder.ExportedEncoder` can run. For anything else, use the model that it was "
            "exported from."
        )
