"""A baseline of extraction: a dictionary of the training entities, whose words are found again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from .tasks import Extraction
from .tasks.span_measures import measured


def known_mentions(task: Extraction, rows: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the metrics of each split for the words that are an entity in at least half of their training texts."""
    names = {name: number for number, name in enumerate(task.names)}
    labels: dict[tuple[str, ...], Counter[str]] = {}
    train = [(task.words_of(row), task.entities_of(row)) for row in rows["train"]]
    for words, entities in train:
        for first, last, label in entities:
            if names[label] not in task.unseen:
                labels.setdefault(tuple(words[first : last + 1]), Counter())[label] += 1
    widths = sorted({len(words) for words in labels}, reverse=True)
    occurrences: Counter[tuple[str, ...]] = Counter()
    for words, _ in train:
        occurrences.update(
            part
            for width in widths
            for start in range(len(words) - width + 1)
            if (part := tuple(words[start : start + width])) in labels
        )
    known = {
        words: counts.most_common(1)[0][0]
        for words, counts in labels.items()
        if 2 * counts.total() >= occurrences[words]
    }
    found = {}
    for split in ("validation", "test"):
        if split in rows:
            spans, truth = [], set()
            for number, row in enumerate(rows[split]):
                words, start = task.words_of(row), 0
                truth |= {(number, a, b, names[label]) for a, b, label in task.entities_of(row)}
                while start < len(words):
                    parts = (tuple(words[start : start + width]) for width in widths)
                    part = next((part for part in parts if part in known), ())
                    if part:
                        spans.append(((number, start, start + len(part) - 1, names[known[part]]), 1.0))
                    start += max(len(part), 1)
            truth = {span for span in truth if span[3] not in task.unseen}
            found[split] = measured(spans, truth, 0.5)
    return found
