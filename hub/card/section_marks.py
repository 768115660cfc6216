"""The comments around a section of a card that a command writes, so that it can replace the section."""

from __future__ import annotations

import re


def section_marks(topic: str) -> tuple[str, str]:
    """Return the comments before and after a section.

    Args:
        topic: The word that names the topic of the section.
    """
    return f"<!-- sequence-encoder: this section is about the {topic} -->", f"<!-- end of the {topic} -->"


def without_section(text: str, topic: str) -> str:
    """Return the text of a card without the section about a topic.

    Args:
        text: The text.
        topic: See `section_marks`.
    """
    start, end = section_marks(topic)
    return re.sub(rf"{re.escape(start)}.*?{re.escape(end)}\n*", "", text, flags=re.DOTALL)
