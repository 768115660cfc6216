"""The file in a saved folder with which transformers finds how a model writes, by its convention `custom_generate`."""

from __future__ import annotations

from pathlib import Path

CUSTOM_GENERATE = "custom_generate/generate.py"
_TEXT = '''"""How the model of this repository writes, for `generate(custom_generate=...)` of transformers."""


def generate(*args, model, **kwargs):
    """Write by unmasking; see `generate` of the model's class for the arguments."""
    return type(model).generate(model, *args, **kwargs)
'''


def is_custom_generate(folder: Path) -> bool:
    """Return whether a folder has the file, and nobody has edited it."""
    try:
        return (folder / CUSTOM_GENERATE).read_text(encoding="utf-8") == _TEXT
    except (OSError, ValueError):
        return False


def write_custom_generate(folder: Path) -> None:
    """Write the file into a folder."""
    file = folder / CUSTOM_GENERATE
    file.parent.mkdir(exist_ok=True)
    file.write_text(_TEXT, encoding="utf-8")
