"""Reads texts with labelled spans of words, from examples in one of three forms."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar

from ...command_line import UsageError
from ...command_line.counts import counted
from .columns import check_columns, check_spellings, check_values, label_text, named

if TYPE_CHECKING:
    from .example_arguments import ExampleArguments
    from .task import Examples

# The first word, the last word and the name of a label.
Entity = tuple[int, int, str]
# The default column with the labels, for texts in GLiNER's form and for others.
_GLINER_TEXT, _GLINER_LABELS = "tokenized_text", "ner"


class SpanExamples:
    """Labelled spans of words, from examples in one of three forms.

    A row has a list of words and a list of `[first, last, label]`, numbers of words, as for GLiNER; or a text and a
    list of `{"start": 0, "end": 5, "label": "person"}` in characters; or a list of words and a list of tags such as
    `B-person`. A row in GLiNER's form may state in `ner_labels` or `ner_negatives` which labels it was searched for.

    Args:
        data: The source of the examples, and the names of their columns.

    Attributes:
        names: All labels, set by `read_spans`.
        text: The column with the texts, set by `read_spans`.
        label: The column with the labels, set by `read_spans`.
    """

    label_column: ClassVar[str] = "ner_tags"

    def __init__(self, data: ExampleArguments) -> None:
        self.data = data
        self.names: list[str] = []

    def read_spans(self, examples: Examples) -> dict[str, Any]:
        """Check the examples of each split, the first of which decides their form, and collect their labels.

        Raises:
            UsageError: If the columns, texts or labels cannot be used.
        """
        main = next(iter(examples))
        data, columns = self.data, examples[main].column_names
        self.text = data.text_column or (next((name for name in (_GLINER_TEXT, "tokens") if name in columns), "text"))
        self.label = data.label_column or (_GLINER_LABELS if self.text == _GLINER_TEXT else self.label_column)
        check_columns(examples, {"text_column": self.text, "label_column": self.label})
        examples = {split: named(rows, self.label) for split, rows in examples.items()}
        self.by_words = isinstance(examples[main][0][self.text], list)
        is_text, wanted = (_is_words, "a list of words") if self.by_words else (_is_str, "a text")
        check_values(data, examples, "text_column", self.text, is_text, f"{wanted} in every row")
        self.tags = self.by_words and any(_is_tags(cell) and cell for cell in examples[main][self.label])
        if self.tags:
            kind, is_label = "tags, one for each word,", _is_tags
        else:
            # `ExampleFiles` turns GLiNER's triples into dicts.
            kind = "lists of [first word, last word, label]" if self.by_words else "lists of start, end and label"
            is_label = _is_triples if self.by_words else _is_spans
        check_values(data, examples, "label_column", self.label, is_label, f"{kind} in every row")
        check_spellings(data, examples, self.label, self._spellings)
        found: Counter[str] = Counter()
        for split, rows in examples.items():
            for number, row in enumerate(rows):
                self._check_places(split, number, row)
                found.update({label for *_, label in self.entities_of(row)} | set(self.searched(row) or ()))
        self.names = sorted(found)
        return dict(examples)

    def _spellings(self, cell: Any) -> list[str]:
        if self.tags:
            return [tag[2:] for tag in cell if tag != "O"]
        # As they are written, they may be lists.
        return [entity["label"] if isinstance(entity, dict) else entity[-1] for entity in cell]

    def _check_places(self, split: str, number: int, row: Any) -> None:
        text, cells = row[self.text], row[self.label]
        if self.tags:
            if len(text) != len(cells):
                raise UsageError(
                    f"--label_column {self.label} must contain one tag per word; {self.data.place_of(split, number)} "
                    f"has {counted(len(text), 'word')} and {counted(len(cells), 'tag')}."
                )
            return
        for cell in cells:
            first, end = (cell["first"], cell["last"] + 1) if self.by_words else (cell["start"], cell["end"])
            if not 0 <= first < end <= len(text):
                unit, last = ("words", end - 1) if self.by_words else ("characters", end)
                where = self.data.place_of(split, number)
                raise UsageError(
                    f"--label_column {self.label}: {where} has an entity from {first} to {last}, "
                    f"which is outside its text of {len(text)} {unit}."
                )

    def words_of(self, row: Any) -> list[str]:
        """Return the words of a row."""
        text = row[self.text]
        return list(text) if self.by_words else [text[start:end] for start, end in places_of(text)]

    def entities_of(self, row: Any) -> list[Entity]:
        """Return the entities of a row, in words. One that ends inside a word has the whole word."""
        cells = row[self.label]
        if self.tags:
            from seqeval.metrics.sequence_labeling import get_entities

            return [(first, last, label_text(label)) for label, first, last in get_entities(cells)]
        if self.by_words:
            return [(cell["first"], cell["last"], label_text(cell["label"])) for cell in cells]
        places, entities = places_of(row[self.text]), []
        for cell in cells:
            inside = [n for n, (start, end) in enumerate(places) if start < cell["end"] and end > cell["start"]]
            if inside:
                entities.append((inside[0], inside[-1], label_text(cell["label"])))
        return entities

    def searched(self, row: Any) -> list[str] | None:
        """Return the labels that a row was searched for besides those of its entities; None for all."""
        found = [row[name] for name in ("ner_labels", "ner_negatives") if self.by_words and row.get(name) is not None]
        return None if not found else [label_text(label) for labels in found for label in labels]


def places_of(text: str) -> list[tuple[int, int]]:
    """Return the places of the words of a text; see `words_of` of the model, which needs torch."""
    from ...modeling.extraction.text_windows import words_of

    return words_of(text)


def _is_str(value: Any) -> bool:
    return isinstance(value, str)


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(word, str) and word.strip() for word in value)


def _is_tags(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(tag, str) and (tag == "O" or (tag[:2] in ("B-", "I-", "E-", "S-", "L-", "U-") and tag[2:].strip()))
        for tag in value
    )


def _is_triples(value: Any) -> bool:
    return _are_spans(value, "first", "last")


def _is_spans(value: Any) -> bool:
    return _are_spans(value, "start", "end")


def _are_spans(value: Any, *names: str) -> bool:
    return isinstance(value, list) and all(
        isinstance(span, dict)
        and isinstance(span.get("label"), str)
        and bool(span["label"].strip())
        and all(isinstance(span.get(name), int) for name in names)
        for span in value
    )
