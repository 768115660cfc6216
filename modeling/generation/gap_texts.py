"""The text of a gap from its tokens, and the tokens with which it can start.

Shapes: L tokens, M masks, V vocabulary.
"""

from codecs import getincrementaldecoder
from collections.abc import Sequence
from functools import lru_cache

import torch

from .constraints import BannedWithin
from .token_texts import TokenTexts


class GapTexts:
    """What tokens write in a gap.

    Args:
        texts: The texts of the tokens.
    """

    def __init__(self, texts: TokenTexts) -> None:
        first, middle = texts.first.strings, texts.middle.strings
        tokens = texts.tokens.tolist()
        self._texts = dict(zip(tokens, middle, strict=True))
        inside = [index for index, text in enumerate(middle) if not text.startswith(b" ")]
        self._not_after_space = torch.tensor([tokens[index] for index in inside], dtype=torch.long)
        # At the start of a text, WordPiece marks tokens that continue a word.
        marked = [tokens[index] for index in inside if first[index] != middle[index]]
        self._not_first = torch.tensor(marked, dtype=torch.long)
        named = dict(zip(tokens, middle, strict=True)).items()
        self._inside_character = [token for token, text in named if 0x80 <= text[0] < 0xC0]
        self._not_last = [token for token, text in named if not text.strip() or _ends_inside_character(text)]

    def text_of(self, ids: Sequence[int]) -> str:
        """Return the text of the tokens of a gap, which can start with a space."""
        return b"".join(self._texts.get(token, b"") for token in ids).decode(errors="replace")

    def starts_word(self, token: int) -> bool:
        """Return whether a token writes a space before its text."""
        return self._texts.get(token, b"").startswith(b" ")

    def word_start(self, place: int, first: bool) -> BannedWithin:
        """Return the constraint that a gap at a place starts with a new word.

        Args:
            place: The place of its first token.
            first: Whether the text starts with the gap.
        """
        return BannedWithin(self._not_first if first else self._not_after_space, place, place + 1)

    def whole_text(self, start: int, end: int, stop: int) -> list[BannedWithin]:
        """Return the constraints that the text of a gap consists of whole characters, and not of white space.

        Args:
            start: The place of its first token.
            end: The first place of its last token.
            stop: The place after the gap.
        """
        banned = ((self._inside_character, start, start + 1), (self._not_last, end, stop))
        return [BannedWithin(*each) for each in banned if each[0]]


@lru_cache(maxsize=4)
def gap_texts(texts: TokenTexts) -> GapTexts:
    """Return the `GapTexts` of a tokenizer, which takes milliseconds to make for a large vocabulary."""
    return GapTexts(texts)


def _ends_inside_character(text: bytes) -> bool:
    """Return whether the last character of a text in UTF-8 lacks bytes."""
    if text.isascii():
        return False
    decoder = getincrementaldecoder("utf-8")("replace")
    decoder.decode(text)
    return bool(decoder.getstate()[0])
