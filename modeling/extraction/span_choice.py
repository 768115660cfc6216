"""Chooses among overlapping spans, the most probable first, as GLiNER does."""

from collections import defaultdict

Span = tuple[int, int, int, float]


def chosen(spans: list[Span], nested: bool = False, multi_label: bool = False) -> list[Span]:
    """Return the spans that remain, in the order of their first words.

    Args:
        spans: The first word, the last word, the label and the probability of each span.
        nested: Whether a span may be inside another one. Otherwise, no two spans have a word in common.
        multi_label: Whether a span may have several labels.
    """
    kept: list[Span] = []
    at_word: defaultdict[int, list[Span]] = defaultdict(list)
    for span in sorted(spans, key=lambda span: -span[3]):
        words = range(span[0], span[1] + 1)
        if not any(_collide(span, other, nested, multi_label) for word in words for other in at_word[word]):
            kept.append(span)
            for word in words:
                at_word[word].append(span)
    return sorted(kept, key=lambda span: span[0])


def _collide(one: Span, other: Span, nested: bool, multi_label: bool) -> bool:
    """Return whether two spans with a word in common exclude each other."""
    if one[:2] == other[:2]:
        return not multi_label
    inside = (one[0] <= other[0] and one[1] >= other[1]) or (other[0] <= one[0] and other[1] >= one[1])
    return not (nested and inside)
