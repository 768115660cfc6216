"""The card fields that a model inherits from the model it was made from: the licence and the language."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import metadata_load

_FIELDS = {"license": str, "license_name": str, "license_link": str, "language": str | list}


def inherited_card_fields(folder: Path) -> dict[str, Any]:
    """Return the card fields that derived models inherit, by their names on the Hub.

    Args:
        folder: The folder of the model. The result is empty if the folder has no card or a damaged one.
    """
    try:
        metadata = metadata_load(folder / "README.md") or {}
        found = {name: metadata[name] for name, kind in _FIELDS.items() if isinstance(metadata.get(name), kind)}
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        return {}
    if isinstance(found.get("language"), list):
        found["language"] = [each for each in found["language"] if isinstance(each, str)]
    return {name: value for name, value in found.items() if value}
