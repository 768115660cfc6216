"""Formats counts for messages, such as "1,000 rows"."""

from __future__ import annotations

# Texts that suit a tokenizer have hardly any unknown tokens.
_FEW_UNKNOWN = 0.02


def counted(number: int, one: str, several: str | None = None) -> str:
    """Return a number and what it counts, such as "1 row" or "1,000 rows".

    Args:
        number: The number.
        one: What follows 1.
        several: What follows other numbers; by default `one` with an s.
    """
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def unknown_in_words(unknown: int, tokens: int) -> str:
    """Say what share of the tokens the tokenizer does not know, or return an empty text if it is small."""
    return (
        f"{unknown / tokens:.0%} of the tokens are unknown to the tokenizer" if unknown > _FEW_UNKNOWN * tokens else ""
    )
