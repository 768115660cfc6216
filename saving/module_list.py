"""Reads `modules.json`, the list of the modules of a sentence-transformers model and their folders."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath, PureWindowsPath

MODULE_LIST = "modules.json"
# The class of the module that is a table of token vectors.
STATIC_MODULE = "StaticEmbedding"


def read_module_list(file: Path) -> list[dict[str, str]]:
    """Read the modules in order.

    Args:
        file: The `modules.json`.

    Returns:
        The `type` and the `path` of each module. The path is empty for the folder of the list itself.

    Raises:
        ValueError: If the list is damaged, or a path is not inside its folder.
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
        raise ValueError(f"{file} must be a list of modules, each with a type and a path.") from error
    raise ValueError(f"{file} names {outside[0]}, which is not inside its folder.")


def module_paths(folder: Path) -> list[str]:
    """Read the path of each module in `folder`; none if it has no `modules.json`.

    Raises:
        ValueError: If `read_module_list` refuses the list.
    """
    file = folder / MODULE_LIST
    return [module["path"] for module in read_module_list(file)] if file.is_file() else []


def _is_inside(path: str) -> bool:
    """Return whether a relative path stays inside its folder, on any operating system."""
    return not any(kind(path).anchor or ".." in kind(path).parts for kind in (PurePosixPath, PureWindowsPath))
