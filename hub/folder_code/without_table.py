"""What encoders with layers do where static ones have a table that other libraries name differently."""

from typing import Any

TABLE_MAPPING: dict[str, str] = {}


def rename_table(*arguments: Any) -> None:
    """Rename nothing."""


def forget_renaming(model: Any) -> None:
    """Do nothing."""
