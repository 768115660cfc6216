"""The comment at the end of a card that this package wrote, which shows whether somebody has edited the card since."""

from __future__ import annotations

import re
from hashlib import blake2b
from pathlib import Path

_ALONE = " from the model alone"
_MARK = re.compile(
    rf"\n*<!-- Written by sequence-encoder({_ALONE})?, which replaces this card until someone edits it: (\w+) -->\n*"
)


def save_card(path: Path, text: str) -> None:
    """Write a card with the mark."""
    mark = _MARK.search(text)
    path.write_text(marked(remove_mark(text), alone=bool(mark and mark[1])), encoding="utf-8")


def marked(text: str, alone: bool = False) -> str:
    """Return the text of a card with the mark.

    Args:
        text: The text, without a mark.
        alone: Whether the card says nothing that the model itself does not say, so that a push may render it again.
    """
    text = text.rstrip("\n")
    source = _ALONE if alone else ""
    return (
        f"{text}\n\n<!-- Written by sequence-encoder{source}, which replaces this card until someone edits it: "
        f"{_digest(text)} -->\n"
    )


def remove_mark(text: str) -> str:
    """Return the text of a card without the mark."""
    return _MARK.sub("\n", text)


def is_unedited(path: Path, alone: bool = False) -> bool:
    """Return whether a file is a card that this package wrote and nobody has edited since.

    Args:
        path: The file.
        alone: Whether only cards that were rendered from the model alone count.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    mark = _MARK.search(text)
    if mark is None or mark.end() != len(text) or (alone and not mark[1]):
        return False
    return mark[2] == _digest(text[: mark.start()])


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=8).hexdigest()
