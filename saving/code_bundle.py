"""The code that loads a saved folder without this package: two files that transformers' Auto classes can import.

The package merges its sources into these files. Code that runs from a saved folder copies the files in that folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

MODELING = "modeling_sequence_encoder"
# Each file imports only files before it.
BUNDLE_FILES = ("configuration_sequence_encoder.py", f"{MODELING}.py")
# Part of the docstring of each file, which distinguishes it from a user's file.
MARK = "Merged from the sources of the Python package sequence-encoder, where changes belong."
# Earlier versions also wrote these.
OLDER_FILES = frozenset({"saving_sequence_encoder.py"})


def copy_code(folder: Path) -> None:
    """Copy the code files that this code is in into a folder."""
    for name in BUNDLE_FILES:
        (folder / name).write_text(Path(__file__).with_name(name).read_text(encoding="utf-8"), encoding="utf-8")


def set_local_names(config: Any) -> None:
    """Name our classes in the same folder in the `auto_map` and the `custom_pipelines` of a configuration.

    Transformers adds the repository to the names if it loads a configuration from the Hub.
    """
    for name in ("auto_map", "custom_pipelines"):
        if given := config.__dict__.pop(name, None):
            setattr(config, name, _local_name(given))


def _local_name(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _local_name(each) for name, each in value.items()}
    return value.rpartition("--")[2] if isinstance(value, str) and f"--{MODELING}." in value else value
