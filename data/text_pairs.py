"""Makes pairs from texts alone: the first sentence of a passage, and the rest, which somebody may search for by it."""

from __future__ import annotations

from .windows import runs, sentences

_PASSAGE_CHARACTERS = 1_000


def pairs_from_text(text: str) -> list[tuple[str, str]]:
    """Return the first sentence and the rest of each passage of two sentences or more.

    The first sentence of a text often says what the text is about, as a title does. A long text has several passages,
    of whole sentences and at most 1,000 characters. A sentence that does not fit is cut.
    """
    return [(first, " ".join(rest)) for first, *rest in runs(sentences(text), _PASSAGE_CHARACTERS) if rest]
