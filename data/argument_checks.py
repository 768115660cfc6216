"""Refuses arguments that cannot be used, with errors that name them."""

from numbers import Integral
from typing import Any


def check_count(value: Any, name: str) -> None:
    """Check that an argument is a positive integer.

    Raises:
        ValueError: If it is not.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"{name} must be an integer, got {value!r}.")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}.")


def check_text(text: object, name: str, index: int | None = None) -> None:
    """Check that a tokenizer can read a text.

    Args:
        text: The text.
        name: The argument that the text comes from.
        index: Its index in the argument, if the argument has several texts.

    Raises:
        ValueError: If it is not a string, or has an unpaired surrogate. JSON can contain one, and Python has one for
            each byte of an argument or a file name that is not UTF-8.
    """
    if isinstance(text, str) and text.isascii():
        return
    place = name if index is None else f"{name}[{index}]"
    if not isinstance(text, str):
        raise ValueError(f"{place} must be a string, got a {type(text).__name__}: {text!r}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"{text[error.start]!a}, half of a character or a byte that is not UTF-8"
        raise ValueError(f"{place} has {half}; remove it.") from error
