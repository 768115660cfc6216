"""Reads texts with gaps such as `"The [MASK] of [MASK]{5}."`, and puts texts into the gaps.

A gap is a mask token, which stands for one token, a mask token with a number, which stands for that many, or one with
two numbers such as `[MASK]{1,8}`, whose length the model chooses. The second number may be missing.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Gap:
    """A gap of a template.

    Attributes:
        least: Its smallest number of tokens.
        most: Its largest number of tokens.
        first: Whether the text starts with it.
        after_space: Whether a space precedes it.
    """

    least: int
    most: int
    first: bool
    after_space: bool


@dataclass(frozen=True)
class Template:
    """A text with gaps.

    Attributes:
        pieces: The texts before, between and after the gaps.
        gaps: The gaps.
    """

    pieces: list[str]
    gaps: list[Gap]

    @classmethod
    def parse(cls, text: str, mask_token: str, longest: int, limit: int) -> "Template":
        """Read a text.

        Args:
            text: The text.
            mask_token: The token that marks gaps.
            longest: The largest number of tokens of a gap such as `[MASK]{2,}`.
            limit: That of any gap: the number of the model's positions.

        Raises:
            ValueError: If it has no gap, or the length of a gap is not possible.
        """
        found = list(re.finditer(re.escape(mask_token) + r"(?:\{(\d+)(,(\d*))?\})?", text))
        if not found:
            raise ValueError(f"The text {text!r} has no gap; mark gaps with {mask_token}.")
        gaps, pieces, end = [], [], 0
        for match in found:
            least = 1 if match[1] is None else int(match[1])
            most = least if match[2] is None else int(match[3] or longest)
            if not 1 <= least <= most:
                raise ValueError(f"The gap {match[0]} must have at least one token, and its numbers must ascend.")
            if most > limit:
                raise ValueError(
                    f"The gap {match[0]} has up to {most} tokens, but the model has only {limit} positions "
                    "(max_position_embeddings)."
                )
            before = text[end : match.start()]
            first = not text[: match.start()].strip()
            gaps.append(Gap(least, most, first, before[-1:].isspace()))
            pieces.append(before)
            end = match.end()
        return cls([*pieces, text[end:]], gaps)

    def with_lengths(self, lengths: Sequence[int], mask_token: str) -> str:
        """Return the text with as many mask tokens in each gap."""
        return self.filled([mask_token * length for length in lengths])

    def filled(self, fills: Sequence[str]) -> str:
        """Return the text with the texts of the gaps."""
        return self.pieces[0] + "".join(fill + piece for fill, piece in zip(fills, self.pieces[1:], strict=True))


def joins_words(before: str, after: str) -> bool:
    """Return whether two texts would become one word if no space was between them, in a script that has spaces."""
    around = [before[-1:], after[:1]]
    return all(char.isalnum() and unicodedata.east_asian_width(char) not in "WF" for char in around)
