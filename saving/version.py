"""The version of this package. Only pyproject.toml states it."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path


def package_version() -> str:
    """Return the version of the running code.

    A checkout reads its own pyproject.toml, because the installed metadata may be missing or belong to another version.
    An installed package has no such file and reads its metadata.
    """
    project = Path(__file__).parents[1] / "pyproject.toml"
    if project.is_file():
        stated = re.search(r'^version = "(.+)"$', project.read_text(encoding="utf-8"), re.MULTILINE)
        assert stated, f"{project} states no version"
        return stated[1]
    return version("sequence-encoder")


__version__ = package_version()
