"""Formats counts for messages, such as "1,000 rows"."""

from __future__ import annotations


def counted(number: int, one: str, several: str | None = None) -> str:
    """Return a number and what it counts, such as "1 row" or "1,000 rows".

    Args:
        number: The number.
        one: What follows 1.
        several: What follows other numbers; by default `one` with an s.
    """
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"
