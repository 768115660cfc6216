"""Token classification, such as named entities, from tags of words or spans of characters."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from ...command_line import UsageError
from ...command_line.counts import counted
from .classification import logits_of, majority_logits
from .columns import (
    check_columns,
    check_spellings,
    check_texts,
    check_values,
    label_names,
    label_of,
    label_text,
    named,
    warn_about_case,
    where_named,
)
from .task import Examples, HeadTask, Metrics, tokenised

if TYPE_CHECKING:
    from transformers import EvalPrediction, PreTrainedTokenizerBase

_OUTSIDE = "O"
_ENTITY_TAG = re.compile(r"O|[BIESLU]-.+")


class Entities(HeadTask):
    """Labels of words, from examples in one of two forms.

    Each row has a list of words and a tag for each word, such as `B-person`, `I-person` or `O`; or it has a text and a
    list of spans, `{"start": 0, "end": 5, "label": "person"}`, which are converted to tags. Tags without these
    prefixes, such as parts of speech, are evaluated word by word.
    """

    auto_class = "AutoModelForTokenClassification"
    peft_task = "TOKEN_CLS"
    best_metric = "f1"
    metric_names = ("precision", "recall", "f1", "accuracy")
    libraries = ("seqeval", "sklearn")
    label_column = "ner_tags"

    def read(self, examples: Examples, known: list[str] | None = None) -> dict[str, Any]:
        """See `HeadTask`."""
        data = self.data
        self.spans = data.label_column is not None and any(
            _has_spans(rows, data.label_column) for rows in examples.values()
        )
        self.text = data.text_column or ("text" if self.spans else "tokens")
        self.label = data.label_column or self.label_column
        self.texts = (self.text,)
        check_columns(examples, {"text_column": self.text, "label_column": self.label})
        if self.spans:
            check_texts(data, examples, "text_column", self.text)
            check_values(data, examples, "label_column", self.label, _is_spans, "lists of start, end and label")
            for split, rows in examples.items():
                self._check_spans(split, rows)
            check_spellings(data, examples, self.label, lambda spans: (span["label"] for span in spans))
            kinds = label_names_of_spans(examples, self.label, known)
            self._set_labels(known or [_OUTSIDE, *(f"{part}-{kind}" for kind in kinds for part in "BI")])
            return dict(examples)
        check_values(data, examples, "text_column", self.text, _is_words, "a list of words in every row")
        examples = {split: named(rows, self.label, known) for split, rows in examples.items()}
        check_values(data, examples, "label_column", self.label, _is_tags, "a list of tags in every row")
        for split, rows in examples.items():
            for row, (words, tags) in enumerate(zip(rows[self.text], rows[self.label], strict=True)):
                if len(words) != len(tags):
                    raise UsageError(
                        f"--label_column {self.label} must contain one tag per word; {data.place_of(split, row)} has "
                        f"{counted(len(words), 'word')} and {counted(len(tags), 'tag')}."
                    )
        self._set_labels(label_names(self.data, examples, self.label, lambda tags: tags, known))
        return dict(examples)

    def _check_spans(self, split: str, rows: Any) -> None:
        for row, (text, spans) in enumerate(zip(rows[self.text], rows[self.label], strict=True)):
            for span in spans:
                if not 0 <= span["start"] < span["end"] <= len(text):
                    raise UsageError(
                        f"--label_column {self.label}: {self.data.place_of(split, row)} has a span from "
                        f"{span['start']} to {span['end']}, which is outside its text of {len(text)} characters."
                    )

    def encode(self, rows: Any, tokenizer: PreTrainedTokenizerBase) -> Any:
        """See `HeadTask`. The first token of each word has the word's label; the loss ignores the other tokens."""
        from ...modeling.label_checks import IGNORED

        label2id, names = self.label_fields["label2id"], self.labels

        def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
            encoded = self.cut.tokenise(
                tokenizer, self.max_length, batch[self.text], is_split_into_words=not self.spans
            )
            labels, places = [], []
            for index, given in enumerate(batch[self.label]):
                words = encoded.word_ids(index)
                tags = self._tags_of_words(encoded, index, batch[self.text][index], given) if self.spans else given
                row, before = [], None
                for word in words:
                    row.append(IGNORED if word is None or word == before else label2id[label_of(tags[word], names)])
                    before = word
                labels.append(row)
                # `answers` needs the places of the labelled words; the model does not.
                kept = [word for word, label in zip(words, row, strict=True) if word is not None and label != IGNORED]
                places.append([self._place(encoded, index, word, batch[self.text][index]) for word in kept])
            return {**dict(encoded), "labels": labels, "places": places}

        return tokenised(rows, encode)

    def _place(self, encoded: Any, index: int, word: int, text: Any) -> list[int]:
        """Return the span of a word, in characters for examples with spans, else in words."""
        return list(_stripped(text, *encoded.word_to_chars(index, word))) if self.spans else [word, word + 1]

    def _tags_of_words(self, encoded: Any, index: int, text: str, spans: list[Any]) -> dict[int, str]:
        """Convert spans of characters to a tag for each word of a text. Words may begin with a space."""
        tags: dict[int, str] = {}
        places = [_stripped(text, span["start"], span["end"]) for span in spans]
        for word in sorted({word for word in encoded.word_ids(index) if word is not None}):
            start, end = _stripped(text, *encoded.word_to_chars(index, word))
            tags[word] = _OUTSIDE
            for (first, last), span in zip(places, spans, strict=True):
                if start < last and end > first:
                    kind = label_text(span["label"])
                    continues = first < start and tags.get(word - 1, _OUTSIDE)[2:] == kind
                    tags[word] = f"{'I' if continues else 'B'}-{kind}"
                    break
        return tags

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Any:
        """See `HeadTask`."""
        from transformers import DataCollatorForTokenClassification

        return DataCollatorForTokenClassification(tokenizer)

    def metrics(self, rows: Any, inputs: Any) -> Metrics:
        """Return a function that computes precision, recall and F1 of entities (seqeval) or words, and accuracy."""
        from ...modeling.label_checks import IGNORED

        labels, word_level = self.labels, self._is_word_level

        def judge(prediction: EvalPrediction) -> dict[str, float]:
            predicted, known = logits_of(prediction).argmax(-1), np.asarray(prediction.label_ids)
            found = [[labels[x] for x in row[kept != IGNORED]] for row, kept in zip(predicted, known, strict=True)]
            true = [[labels[x] for x in row[row != IGNORED]] for row in known]
            if not any(true):
                return dict.fromkeys(self.metric_names, 0.0)
            return _word_metrics(found, true) if word_level else _entity_metrics(found, true)

        return judge

    @property
    def _is_word_level(self) -> bool:
        return not all(_ENTITY_TAG.fullmatch(label) for label in self.labels)

    def counts(self, found: list[str], true: list[str]) -> tuple[int, int, int, int, int]:
        """Count the entities of a text that are right, found and true, and the words that are right and all.

        Without prefixes of entities, each word counts as an entity.
        """
        from seqeval.metrics.sequence_labeling import get_entities

        right = sum(one == other for one, other in zip(found, true, strict=True))
        if self._is_word_level:
            return right, len(found), len(true), right, len(true)
        entities, known = set(get_entities(found)), set(get_entities(true))
        return len(entities & known), len(entities), len(known), right, len(true)

    def answers(self, rows: Any, inputs: Any, found: EvalPrediction) -> list[Any]:
        """See `HeadTask`. The answer is a list of spans, or of tags with None for words that were truncated."""
        from ...modeling.label_checks import IGNORED

        predicted, known = logits_of(found).argmax(-1), np.asarray(found.label_ids)
        answers: list[Any] = []
        for row, kept, places, text in zip(predicted, known, inputs["places"], rows[self.text], strict=True):
            tags = [self.labels[index] for index in row[kept != IGNORED]]
            if self.spans:
                answers.append(_spans_of(tags, places))
            else:
                by_word = {place[0]: tag for place, tag in zip(places, tags, strict=True)}
                answers.append([by_word.get(word) for word in range(len(text))])
        return answers

    def constant(self, train: Any, inputs: Any) -> EvalPrediction | None:
        """See `HeadTask`. The constant answer is the most frequent tag."""
        from transformers import EvalPrediction

        from ...modeling.label_checks import IGNORED

        known = (label for labels in train["labels"] for label in labels if label != IGNORED)
        longest = max(map(len, inputs["labels"]))
        labels = np.array([[*labels, *[IGNORED] * (longest - len(labels))] for labels in inputs["labels"]])
        logits = majority_logits(known, len(self.labels))
        return EvalPrediction(np.broadcast_to(logits, (*labels.shape, len(logits))), labels)


def _spans_of(tags: list[str], places: list[list[int]]) -> list[dict[str, Any]]:
    """Convert tags of words to spans of characters."""
    spans: list[dict[str, Any]] = []
    before = _OUTSIDE
    for tag, (start, end) in zip(tags, places, strict=True):
        kind = tag[2:]
        if tag.startswith("I-") and before[2:] == kind:
            spans[-1]["end"] = end
        elif tag != _OUTSIDE:
            spans.append({"start": start, "end": end, "label": kind})
        before = tag
    return spans


def _entity_metrics(found: list[list[str]], true: list[list[str]]) -> dict[str, float]:
    from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score

    return {
        "precision": float(precision_score(true, found, zero_division=0)),
        "recall": float(recall_score(true, found, zero_division=0)),
        "f1": float(f1_score(true, found, zero_division=0)),
        "accuracy": float(accuracy_score(true, found)),
    }


def _word_metrics(found: list[list[str]], true: list[list[str]]) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support

    words, known = [tag for row in found for tag in row], [tag for row in true for tag in row]
    scores = precision_recall_fscore_support(known, words, average="macro", zero_division=0)[:3]
    named = dict(zip(("precision", "recall", "f1"), map(float, scores), strict=True))
    return {**named, "accuracy": float(accuracy_score(known, words))}


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    """Return a span without the whitespace at its ends."""
    inside = text[start:end]
    return start + len(inside) - len(inside.lstrip()), end - len(inside) + len(inside.rstrip())


def label_names_of_spans(examples: Examples, column: str, known: list[str] | None = None) -> list[str]:
    """Collect the labels of the spans in the training examples, or those that a model has tags for.

    Raises:
        UsageError: If there are no spans, or another split has a label that the training examples lack.
    """
    found = {
        split: {label_text(span["label"]) for cell in rows[column] for span in cell} for split, rows in examples.items()
    }
    source = "model" if known else "training examples"
    allowed = {tag[2:] for tag in known if tag != _OUTSIDE} if known else found["train"]
    if not allowed:
        raise UsageError(f"--label_column {column}: the training examples have no spans.")
    for split, kinds in found.items():
        if unseen := sorted(kinds - allowed):
            raise UsageError(
                f"--label_column {column}: the {split} examples have spans with the labels {', '.join(unseen[:5])}, "
                f"but the {source} {'does' if known else 'do'} not{where_named(known) if known else '.'}"
            )
    warn_about_case(allowed, column)
    return sorted(allowed)


def _has_spans(rows: Any, column: str) -> bool:
    if column not in rows.column_names:
        return False
    first = next((cell for cell in rows[column] if cell), None)
    return isinstance(first, list) and isinstance(first[0], dict)


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(word, str) for word in value)


def _is_tags(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(tag, str | int) for tag in value)


def _is_spans(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(span, dict)
        and isinstance(span.get("label"), str)
        and all(isinstance(span.get(name), int) for name in ("start", "end"))
        for span in value
    )
