"""The content of an explanation: words with scores, and their faithfulness."""

from __future__ import annotations

from dataclasses import dataclass

from .faithfulness import Faithfulness
from .neighbours import Neighbour
from .words import Target, Word


@dataclass(frozen=True)
class ScoredWords:
    """Why a model gives a number for a text: a score for each word.

    Attributes:
        texts: The text, or the two texts.
        target: The number that is explained.
        value: Its value for the whole text.
        words: The words of all texts.
        scores: The score of each word: what it adds to the number, by the method. Its sign says whether the word speaks
            for the target or against it.
        method: The method.
        removal: What takes the place of removed words: "mask", or "leave_out" for nothing.
        faithfulness: How well the scores name the words that the model uses; None if this was not measured.
        truncated: Whether the model reads only the start of the texts.
        neighbours: The examples that are nearest to the first text, if they were looked for.
    """

    texts: tuple[str, ...]
    target: Target
    value: float
    words: tuple[Word, ...]
    scores: tuple[float, ...]
    method: str
    removal: str
    faithfulness: Faithfulness | None
    truncated: bool = False
    neighbours: tuple[Neighbour, ...] = ()

    def top(self, count: int | None = None) -> list[tuple[Word, float]]:
        """Return the words with the largest scores, for or against the target, and their scores.

        Args:
            count: The number of words; by default all.
        """
        pairs = zip(self.words, self.scores, strict=True)
        return sorted(pairs, key=lambda pair: -abs(pair[1]))[:count]

    @property
    def warning(self) -> str | None:
        """What is wrong with the explanation, if anything is."""
        problems = []
        if self.faithfulness is not None and not self.faithfulness.better_than_random and len(self.words) > 1:
            problems.append(
                "These scores are not more faithful to the model than words in a random order; do not rely on them. "
                "Try another method, or more samples."
            )
        if self.truncated:
            problems.append("The model reads only the start of the text; words after it have no scores.")
        return " ".join(problems) or None
