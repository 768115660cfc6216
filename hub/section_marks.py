"""The comments around a section of a card that a command writes, so that it can replace the section."""

from __future__ import annotations


def section_marks(topic: str) -> tuple[str, str]:
    """Return the comments before and after a section.

    Args:
        topic: The word that names the topic of the section.
    """
    return f"<!-- sequence-encoder: this section is about the {topic} -->", f"<!-- end of the {topic} -->"
