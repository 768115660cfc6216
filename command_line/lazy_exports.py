"""Lets the package export names without importing their modules, so that few of them need optional libraries."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from .extras import require


def lazy_exports(
    package: str, modules: Mapping[str, str], extras: Mapping[str, tuple[str, ...]]
) -> Callable[[str], Any]:
    """Return a module-level `__getattr__` (PEP 562), which imports a name from its module on first use.

    Args:
        package: The `__name__` of the package.
        modules: The module of each exported name, relative to the package.
        extras: The extra that the modules of a subpackage need and the libraries that it installs, by the start of
            their names.
    """

    def import_name(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        for package_with_extra, (extra, *libraries) in extras.items():
            if modules[name].startswith(package_with_extra):
                require(name, *libraries, extra=extra)
        return getattr(importlib.import_module(f".{modules[name]}", package), name)

    return import_name
