"""Lets a package export names without importing their modules, so that the command line starts without torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from .extras import require


def lazy_exports(
    package: str, modules: Mapping[str, str], extra: str | None = None, *libraries: str
) -> Callable[[str], Any]:
    """Return a module-level `__getattr__` (PEP 562), which imports a name from its module on first use.

    Args:
        package: The `__name__` of the package.
        modules: The module of each exported name, relative to the package.
        extra: The extra of this package that installs the libraries.
        *libraries: The libraries that the modules import.
    """

    def import_name(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        require(name, *libraries, extra=extra)
        return getattr(importlib.import_module(f".{modules[name]}", package), name)

    return import_name
