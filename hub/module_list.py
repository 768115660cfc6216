"""`modules.json`: the modules of a sentence-transformers model, and the folders they are in."""

from __future__ import annotations

import json
from pathlib import Path

MODULE_LIST = "modules.json"


def module_paths(folder: Path) -> list[str]:
    """The path of each module inside `folder`, empty for the folder itself; none where there is no list.

    Raises:
        ValueError: if the list is not what it should be.
    """
    listed = folder / MODULE_LIST
    if not listed.is_file():
        return []
    try:
        return [module["path"] for module in json.loads(listed.read_text(encoding="utf-8"))]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{listed} is no list of modules, each with its path.") from error
