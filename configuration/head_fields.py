"""Checks a field of a `SequenceEncoderConfig` that holds what one head needs, as a dict.

A dataclass describes such a field: its annotations and defaults say what a value may be, and metadata what else it must
be: `choices`, the `least` integer, or `unlimited` for any number.
"""

# The configuration imports this module, so that it cannot be imported here.
import math
from collections.abc import Mapping
from dataclasses import Field, fields
from typing import Any


def check_head_fields(name: str, given: Any, kind: type, vocab_size: int) -> None:
    """Check the value of a field.

    Args:
        name: The name of the field.
        given: Its value; None if the model has no such head.
        kind: The dataclass that describes it.
        vocab_size: The number of tokens, to which ids of tokens are compared.

    Raises:
        ValueError: If it is no dict of known names and allowed values.
    """
    if given is None:
        return
    known = {field.name: field for field in fields(kind)}
    if not isinstance(given, Mapping) or set(given) - set(known):
        raise ValueError(f"{name} must be a dict with some of {', '.join(known)}, got {given!r}.")
    for key, value in given.items():
        if (wanted := _wanted(known[key], value)) is not None:
            raise ValueError(f"{name}[{key!r}] must be {wanted}, got {value!r}.")
        if key.endswith("_token_id") and value is not None and value >= vocab_size:
            raise ValueError(f"{name}[{key!r}] must be below vocab_size={vocab_size}, got {value}.")


def _wanted(field: Field[Any], value: Any) -> str | None:
    """Return what a value must be; None if it is that."""
    if value is None and field.default is None:
        return None
    if "choices" in field.metadata:
        choices = field.metadata["choices"]
        return None if value in choices else f"one of {', '.join(map(repr, choices))}"
    if isinstance(field.default, bool):
        return None if isinstance(value, bool) else "true or false"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if "unlimited" in field.metadata:
        return None if number and math.isfinite(value) else "a finite number"
    if isinstance(field.default, float):
        return None if number and 0 <= value < 1 else "a number from 0 to below 1"
    least = field.metadata.get("least", 0)
    return None if number and isinstance(value, int) and value >= least else f"an integer of at least {least}"
