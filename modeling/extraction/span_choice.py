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
    at_word: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    # Whether the first and the last word of a span may stay. Other labels do not change that.
    decided: dict[tuple[int, int], bool] = {}
    for span in sorted(spans, key=lambda span: -span[3]):
        place = span[:2]
        if place in decided:
            if decided[place] and multi_label:
                kept.append(span)
            continue
        words = range(place[0], place[1] + 1)
        decided[place] = not any(_collide(place, other, nested) for word in words for other in at_word[word])
        if decided[place]:
            kept.append(span)
            for word in words:
                at_word[word].append(place)
    return sorted(kept, key=lambda span: span[0])


def _collide(one: tuple[int, int], other: tuple[int, int], nested: bool) -> bool:
    """Return whether two spans with a word in common exclude each other."""
    inside = (one[0] <= other[0] and one[1] >= other[1]) or (other[0] <= one[0] and other[1] >= one[1])
    return not (nested and inside)
