"""What the card of a model passes on to the card of a model that is made from it: the licence and the language."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import metadata_load

_FIELDS = {"license": str, "license_name": str, "license_link": str, "language": str | list}


def passed_on(folder: Path) -> dict[str, Any]:
    """The fields of the card in a folder that hold for models made from this one, by their names on the Hub.

    Args:
        folder: of the model. None of the fields is known if it has no card, or a damaged one.
    """
    try:
        metadata = metadata_load(folder / "README.md") or {}
        found = {name: metadata[name] for name, kind in _FIELDS.items() if isinstance(metadata.get(name), kind)}
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        return {}
    if isinstance(found.get("language"), list):
        found["language"] = [each for each in found["language"] if isinstance(each, str)]
    return {name: value for name, value in found.items() if value}
