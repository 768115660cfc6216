"""Converts the columns that the user asked for as numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

# What counts as a number in a text. Unlike Python's own functions, this excludes 1_000 and nan.
_TEXTS = {"int": re.compile(r"[+-]?[0-9]+"), "float": re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")}
_TYPES = {"int": pa.int64(), "float": pa.float64()}


class NotANumber(ValueError):
    """A value cannot be converted without a loss.

    Attributes:
        index: The index of the value.
        value: The value.
    """

    def __init__(self, index: int, value: Any) -> None:
        super().__init__(f"{value!r} is not a number.")
        self.index, self.value = index, value


def as_numbers(values: Sequence[Any], kind: str) -> pa.Array:
    """Convert values to numbers. An empty text becomes null.

    Args:
        values: Numbers, texts or null.
        kind: One of `NUMBERS`.

    Raises:
        NotANumber: If a value is something else, or no number of this kind.
    """
    numbers = []
    for index, value in enumerate(values):
        try:
            numbers.append(_number(value, kind))
        except (ValueError, TypeError, OverflowError) as error:
            raise NotANumber(index, value) from error
    return pa.array(numbers, _TYPES[kind])


def _number(value: Any, kind: str) -> int | float | None:
    if isinstance(value, bool):
        raise TypeError(value)
    if isinstance(value, str):
        if not (value := value.strip()):
            return None
        if not _TEXTS[kind].fullmatch(value):
            raise ValueError(value)
        value = int(value) if _TEXTS["int"].fullmatch(value) else float(value)
    if value is None:
        return None
    number: int | float = int(value) if kind == "int" else float(value)
    # Only integers must remain exact as floats.
    is_exact = number == value or (kind == "float" and not isinstance(value, int))
    if not is_exact or abs(number) == float("inf") or (kind == "int" and not -(2**63) <= number < 2**63):
        raise ValueError(value)
    return number
