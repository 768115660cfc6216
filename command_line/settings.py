"""Reads a settings file as the options of a command."""

from __future__ import annotations

import json
from pathlib import Path

from . import UsageError

SETTINGS_FILES = (".json", ".yaml", ".yml")


def read_settings(file: Path) -> list[str]:
    """Read a YAML or JSON file of settings as command line options.

    Raises:
        UsageError: If the file does not hold settings.
        OSError: If the file cannot be read.
    """
    import yaml

    if not file.is_file():
        raise UsageError(f"there is no file {file}. The first argument can be a YAML or JSON settings file.")
    try:
        # JSON is YAML too.
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        # A YAML error spans several lines.
        raise UsageError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise UsageError(f"{file} must contain names and values, got {type(settings).__name__}.")
    options: list[str] = []
    for name, value in settings.items():
        if isinstance(value, list):
            options += [f"--{name}", *map(str, value)]
        elif value is not None:
            options.append(f"--{name}={json.dumps(value) if isinstance(value, dict) else value}")
    return options
