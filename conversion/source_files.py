"""What may be read of a folder that someone else made: its own files, and nothing that they only point to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..saving.module_list import module_paths

# Far more than a card, a licence or a list of modules has.
_LARGEST_TEXT = 64 * 2**20
_TEXTS = ("README.md", "LICENSE", "config.json", "modules.json")
_CHAT_TEMPLATES = "additional_chat_templates"


def check_source(folder: Path) -> None:
    """Checks that all files of a checkpoint lie in its folder, or in the cache of downloads that it belongs to.

    What is read from a checkpoint is written into the new model, which may then be published. A link to a private file
    would publish that file.

    Args:
        folder: of a checkpoint.

    Raises:
        ValueError: for a link that leads out of the folder, a file that is no regular one, and an endless text.
    """
    allowed = _places(folder)
    for path in _read_from(folder):
        target = path.resolve()
        if not any(target.is_relative_to(place) for place in allowed):
            raise ValueError(
                f"{path} leads to {target}, outside {folder}. If you want that file in the new model, copy it there."
            )
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path} is no regular file.")
        if path.name.startswith(_TEXTS) and path.is_file() and path.stat().st_size > _LARGEST_TEXT:
            raise ValueError(f"{path} has {path.stat().st_size:,} bytes, and may have {_LARGEST_TEXT:,} at most.")


def _places(folder: Path) -> list[Path]:
    """Where files of the folder may be: inside, and for a snapshot in the Hub's cache where that keeps its files."""
    resolved = folder.resolve()
    caches = [parent.parent / "blobs" for parent in resolved.parents if parent.name == "snapshots"]
    return [resolved, *caches]


def _read_from(folder: Path) -> Iterator[Path]:
    """All that can be read: the files of the folder itself, and all of its modules."""
    yield from (path for path in folder.iterdir() if not path.is_dir())
    for name in {*filter(None, module_paths(folder)), _CHAT_TEMPLATES}:
        # All parts, as each can be a link.
        yield from (folder / part for part in (Path(name), *Path(name).parents) if (folder / part).is_symlink())
        for inside, folders, files in os.walk(folder / name):
            yield from (Path(inside, entry) for entry in (*folders, *files))
