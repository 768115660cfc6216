"""The text of a gap from its tokens, and the tokens with which it can start.

Shapes: L tokens, M masks, V vocabulary.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch

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

    def text_of(self, ids: Sequence[int]) -> str:
        """Return the text of the tokens of a gap, which can start with a space."""
        return b"".join(self._texts.get(token, b"") for token in ids).decode(errors="replace")

    def word_start(self, place: int, first: bool) -> "WordStart":
        """Return the constraint that a gap at a place starts with a new word.

        Args:
            place: The place of its first token.
            first: Whether the text starts with the gap.
        """
        return WordStart(place, self._not_first if first else self._not_after_space)


@lru_cache(maxsize=4)
def gap_texts(texts: TokenTexts) -> GapTexts:
    """Return the `GapTexts` of a tokenizer, which takes milliseconds to make for a large vocabulary."""
    return GapTexts(texts)


class WordStart:
    """Demands that the token at a place starts a word.

    Args:
        place: The place.
        others: The ids of all other tokens.
    """

    joint = False

    def __init__(self, place: int, others: torch.Tensor) -> None:
        self._place, self._others = place, others

    def forbid(self, row: torch.Tensor, positions: torch.Tensor, scores: torch.Tensor) -> None:
        """See `Constraint.forbid`."""
        here = (positions == self._place).nonzero()
        scores[here.to(scores.device), self._others.to(scores.device)] = -torch.inf
