"""`modules.json`: the modules of a sentence-transformers model, and the folders they are in."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath, PureWindowsPath

MODULE_LIST = "modules.json"


def module_paths(folder: Path) -> list[str]:
    """The path of each module inside `folder`, empty for the folder itself; none where there is no list.

    Raises:
        ValueError: if the list is damaged, or names a path that is not inside.
    """
    listed = folder / MODULE_LIST
    if not listed.is_file():
        return []
    try:
        paths = [module["path"] for module in json.loads(listed.read_text(encoding="utf-8"))]
        outside = [path for path in paths if not _is_inside(path)]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{listed} is no list of modules, each with its path.") from error
    if outside:
        raise ValueError(f"{listed} names {outside[0]}, which is not inside.")
    return paths


def _is_inside(path: str) -> bool:
    """Whether a path stays inside the folder that it starts from, on any system."""
    return not any(kind(path).anchor or ".." in kind(path).parts for kind in (PurePosixPath, PureWindowsPath))
