"""Checks that no file in an untrusted checkpoint folder links outside the folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..saving.module_list import module_paths

# Far more than any card, licence or module list needs.
_MAX_TEXT_BYTES = 64 * 2**20
_TEXTS = ("README.md", "LICENSE", "config.json", "modules.json")
_CHAT_TEMPLATES = "additional_chat_templates"


def check_source(folder: Path) -> None:
    """Check that all files of a checkpoint are in its folder, or in the Hub cache that the folder belongs to.

    The conversion copies files into the new model, which the user may publish. A link to a private file would publish
    that file.

    Args:
        folder: The folder of a checkpoint.

    Raises:
        ValueError: If a link points outside the folder, a file is not a regular file, or a text file is too large.
    """
    allowed = _allowed_folders(folder)
    for path in _read_from(folder):
        target = path.resolve()
        if not any(target.is_relative_to(place) for place in allowed):
            raise ValueError(
                f"{path} links to {target}, outside {folder}. If the new model needs that file, copy it there."
            )
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path} is not a regular file.")
        if path.name.startswith(_TEXTS) and path.is_file() and path.stat().st_size > _MAX_TEXT_BYTES:
            raise ValueError(f"{path} must have at most {_MAX_TEXT_BYTES:,} bytes, got {path.stat().st_size:,}.")


def _allowed_folders(folder: Path) -> list[Path]:
    """Return the folders that files may link to: the folder itself and, for a snapshot in the Hub cache, its blobs."""
    resolved = folder.resolve()
    caches = [parent.parent / "blobs" for parent in resolved.parents if parent.name == "snapshots"]
    return [resolved, *caches]


def _read_from(folder: Path) -> Iterator[Path]:
    """Yield every path that the conversion may read: the files in the folder and in its modules."""
    yield from (path for path in folder.iterdir() if not path.is_dir())
    for name in {*filter(None, module_paths(folder)), _CHAT_TEMPLATES}:
        # Any part of the path can be a link.
        yield from (folder / part for part in (Path(name), *Path(name).parents) if (folder / part).is_symlink())
        for inside, folders, files in os.walk(folder / name):
            yield from (Path(inside, entry) for entry in (*folders, *files))
