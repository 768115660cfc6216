"""`modules.json`: the modules of a sentence-transformers model, and the folders they are in."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath, PureWindowsPath

MODULE_LIST = "modules.json"


def read_module_list(file: Path) -> list[dict[str, str]]:
    """Read the modules in order, each with its `type` and its `path`, empty for the folder of the list itself.

    Raises:
        ValueError: if the list is damaged, or names a path that is not inside its folder.
    """
    try:
        modules = json.loads(file.read_text(encoding="utf-8"))
        outside = [module["path"] for module in modules if not _is_inside(module["path"])]
        if not outside:
            paths = [PurePosixPath(module["path"]) for module in modules]
            return [
                {"type": str(module.get("type")), "path": str(path) if path.parts else ""}
                for module, path in zip(modules, paths, strict=True)
            ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{file} is no list of modules, each with its type and path.") from error
    raise ValueError(f"{file} names {outside[0]}, which is not inside.")


def module_paths(folder: Path) -> list[str]:
    """Read the path of each module inside `folder`; none where there is no list.

    Raises:
        ValueError: as `read_module_list` does.
    """
    file = folder / MODULE_LIST
    return [module["path"] for module in read_module_list(file)] if file.is_file() else []


def _is_inside(path: str) -> bool:
    """Whether a path stays inside the folder that it starts from, on any system."""
    return not any(kind(path).anchor or ".." in kind(path).parts for kind in (PurePosixPath, PureWindowsPath))
