"""What the options of several commands have in common: their descriptions, and a check."""

from __future__ import annotations

from typing import Any

from . import UsageError

# The metadata of dataclass fields.
MODEL = {"help": "Folder or Hub id of the model, also as the first argument; `convert` lists the families."}
DEVICE = {"help": "Device, such as cuda:1 or cpu; the default is a GPU if there is one."}


def check_least(arguments: Any, **least: int) -> None:
    """Check that options are not too small.

    Args:
        arguments: A dataclass of options.
        **least: The smallest allowed value of each option. None is always allowed.

    Raises:
        UsageError: If an option is smaller, or NaN.
    """
    for name, smallest in least.items():
        value = getattr(arguments, name)
        if value is not None and not value >= smallest:
            raise UsageError(f"--{name} must be at least {smallest}, got {value}.")
