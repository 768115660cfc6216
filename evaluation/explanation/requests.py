"""The subject of an explanation: the words of one or two texts, and the model's outputs for them.

Shapes: L tokens of a row, W words of a request.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from .words import Row, Word


@dataclass(frozen=True)
class Target:
    """One number that the model computes from a text.

    Attributes:
        name: What the model says, such as the name of a label or the text of an answer.
        number: What the number is, such as "log-odds of the label".
        indices: The index of the label, for each place that counts; or of the token in the vocabulary.
        places: The tokens whose outputs count; empty if the model has one output per text.
        source: Which text has the words that the target is about: 0, 1, or None if it is about all.
        start: The index of the first character of those words.
        end: The index after the last character.
    """

    name: str
    number: str
    indices: tuple[int, ...] = ()
    places: tuple[int, ...] = ()
    source: int | None = None
    start: int | None = None
    end: int | None = None


@dataclass
class Request:
    """Texts to explain.

    Attributes:
        texts: One text, or two.
        rows: The inputs of the model: one, or one for each text that the model reads alone.
        words: The W words of all texts.
        targets: The numbers to explain.
    """

    texts: tuple[str, ...]
    rows: list[Row]
    words: list[Word]
    targets: list[Target] = field(default_factory=list)

    def kept(self, copies: int) -> torch.Tensor:
        """Return (copies, W) bool, for copies that have all words."""
        return torch.ones(copies, len(self.words), dtype=torch.bool)

    def name(self) -> str:
        """Return a short name for errors."""
        text = self.texts[0]
        return repr(text if len(text) <= 40 else f"{text[:37]}…")
