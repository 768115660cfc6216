"""Zero-shot extraction: spans of words with labels that the model reads, from examples in one of three forms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from ....command_line import UsageError
from ....command_line.counts import counted
from ....tasks.columns import check_columns, check_spellings, check_values, label_text, named
from ....tasks.task import Examples, HeadTask, Metrics, TruncationCounts
from .label_draws import LabelDraws
from .span_measures import THRESHOLDS, best_threshold, by_label, measured

if TYPE_CHECKING:
    from transformers import EvalPrediction, PreTrainedTokenizerBase

    from ....tasks.example_arguments import ExampleArguments

# The first word, the last word and the name of a label.
Entity = tuple[int, int, str]
# The default column with the labels, for texts in GLiNER's form and for others.
_GLINER_TEXT, _GLINER_LABELS = "tokenized_text", "ner"
# The share of the training entities that the model must be able to represent, and the widths that it can have.
_WIDE_ENOUGH, _LEAST_WIDTH, _MOST_WIDTH = 0.995, 8, 32
# The seed of the labels of evaluations, which are the same for all seeds of the training.
_EVALUATION_SEED = 0


@dataclass
class WindowCounts(TruncationCounts):
    """Counts of what a split is read in. No text is truncated.

    Attributes:
        windows: The number of windows.
    """

    windows: int = 0

    def in_words(self, max_length: int) -> str:
        """See `TruncationCounts`."""
        if self.windows <= self.texts:
            return f"no text is longer than {max_length} tokens with its labels"
        several = f"{counted(self.texts, 'text')} in {self.windows:,} windows"
        return f"the model reads {several} of at most {max_length} tokens (--max_length)"


@dataclass
class _Found:
    """The spans in the texts of a split: those of the model, without overlaps, and the true ones.

    Attributes:
        spans: (text, first word, last word, label) and the probability of each span.
        truth: The same without the probability.
    """

    spans: list[tuple[tuple[int, int, int, int], float]] = field(default_factory=list)
    truth: set[tuple[int, int, int, int]] = field(default_factory=set)


class Extraction(HeadTask):
    """Labelled spans of words, from examples in one of three forms.

    A row has a list of words and a list of `[first, last, label]`, numbers of words, as for GLiNER; or a text and a
    list of `{"start": 0, "end": 5, "label": "person"}` in characters; or a list of words and a list of tags such as
    `B-person`. A row in GLiNER's form may state in `ner_labels` or `ner_negatives` which labels it was searched for.

    Args:
        data: The source of the examples, and the names of their columns.
        max_length: The number of tokens of a window with its labels. Set it before examples are encoded.
        descriptions: What the model reads for a label, by its name.
        held_out: Labels to leave out of the training.

    Attributes:
        names: All labels, set by `read`.
        unseen: The numbers of the labels that no training example has.
        max_width: The number of words that nearly all training entities have at most.
        threshold: The probability from which spans count. Evaluations of the validation examples choose it.
        chooses_threshold: Whether the next evaluation does.
    """

    auto_class = "AutoModel"
    peft_task: ClassVar[str | None] = None
    best_metric = "f1"
    metric_names = ("precision", "recall", "f1", "f1_at_0.5", "zero_shot_f1")
    tunings: ClassVar[tuple[str, ...]] = ("full",)
    libraries = ("seqeval",)
    hub_task = "token-classification"
    label_column = "ner_tags"

    def __init__(
        self,
        data: ExampleArguments,
        max_length: int = 0,
        descriptions: Mapping[str, str] | None = None,
        held_out: Sequence[str] = (),
    ) -> None:
        super().__init__(data, max_length)
        self.descriptions, self.held_out = dict(descriptions or {}), list(map(label_text, held_out))
        self.names: list[str] = []
        self.unseen: set[int] = set()
        self.threshold, self.chooses_threshold = 0.5, True
        self.cut: TruncationCounts = WindowCounts()

    # Reading.

    def read(self, examples: Examples, known: list[str] | None = None) -> dict[str, Any]:
        """See `HeadTask`."""
        data, columns = self.data, examples["train"].column_names
        self.text = data.text_column or (next((name for name in (_GLINER_TEXT, "tokens") if name in columns), "text"))
        self.label = data.label_column or (_GLINER_LABELS if self.text == _GLINER_TEXT else self.label_column)
        self.texts = (self.text,)
        check_columns(examples, {"text_column": self.text, "label_column": self.label})
        examples = {split: named(rows, self.label) for split, rows in examples.items()}
        self.by_words = isinstance(examples["train"][0][self.text], list)
        is_text, wanted = (_is_words, "a list of words") if self.by_words else (_is_str, "a text")
        check_values(data, examples, "text_column", self.text, is_text, f"{wanted} in every row")
        self.tags = self.by_words and any(_is_tags(cell) and cell for cell in examples["train"][self.label])
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
                found.update({label for *_, label in self.entities_of(row)} | set(self._searched(row) or ()))
        widths = [last - first + 1 for row in examples["train"] for first, last, _ in self.entities_of(row)]
        if not widths:
            raise UsageError(f"--label_column {self.label}: the training examples have no entities.")
        self._set_names(sorted(found))
        quantile = int(np.quantile(widths, _WIDE_ENOUGH, method="higher"))
        self.max_width = min(max(quantile, _LEAST_WIDTH), _MOST_WIDTH)
        return dict(examples)

    def _spellings(self, cell: Any) -> list[str]:
        if self.tags:
            return [tag[2:] for tag in cell if tag != "O"]
        # As they are written, they may be lists.
        return [entity["label"] if isinstance(entity, dict) else entity[-1] for entity in cell]

    def _set_names(self, names: list[str]) -> None:
        self.names = names
        for argument, given in (("held_out_labels", self.held_out), ("label_descriptions", self.descriptions)):
            if unknown := [name for name in given if name not in names]:
                raise UsageError(
                    f"--{argument} names {', '.join(unknown[:5])}, which the examples do not have; they have "
                    f"{', '.join(names[:20])}."
                )
        self.unseen = {names.index(name) for name in self.held_out}
        if len(self.unseen) == len(names):
            raise UsageError("--held_out_labels names all labels of the examples, so nothing is left to train on.")

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
        return list(text) if self.by_words else [text[start:end] for start, end in _places(text)]

    def entities_of(self, row: Any) -> list[Entity]:
        """Return the entities of a row, in words. One that ends inside a word has the whole word."""
        cells = row[self.label]
        if self.tags:
            from seqeval.metrics.sequence_labeling import get_entities

            return [(first, last, label_text(label)) for label, first, last in get_entities(cells)]
        if self.by_words:
            return [(cell["first"], cell["last"], label_text(cell["label"])) for cell in cells]
        places, entities = _places(row[self.text]), []
        for cell in cells:
            inside = [n for n, (start, end) in enumerate(places) if start < cell["end"] and end > cell["start"]]
            if inside:
                entities.append((inside[0], inside[-1], label_text(cell["label"])))
        return entities

    def _searched(self, row: Any) -> list[str] | None:
        """Return the labels that a row was searched for besides those of its entities; None for all."""
        found = [row[name] for name in ("ner_labels", "ner_negatives") if self.by_words and row.get(name) is not None]
        return None if not found else [label_text(label) for labels in found for label in labels]

    # Inputs.

    def use(self, tokenizer: PreTrainedTokenizerBase, fields: Any) -> None:
        """Take the tokenizer and the `SpanExtractionFields` of the model. Call it before `encode`."""
        self.tokenizer, self.fields = tokenizer, fields
        self.draws = LabelDraws(
            tokenizer, fields, self.names, self.descriptions, self.max_length // 2, trained=self._are_trained()
        )

    def _are_trained(self) -> np.ndarray:
        return np.array([number not in self.unseen for number in range(len(self.names))])

    def encode(self, rows: Any, tokenizer: PreTrainedTokenizerBase) -> Any:
        """Split the texts into windows, as at prediction, which have room for the labels.

        Returns:
            The tokens of the words of each window, its text, its place in the text, its entities, and the labels that
            its text was searched for, -1 for all.
        """
        from datasets import Dataset

        from ....modeling.extraction.text_windows import Prompt, windows_of_words

        numbers = {name: number for number, name in enumerate(self.names)}
        prompt = Prompt(tokenizer, [], self.fields, self.max_length - self.draws.most_tokens)
        texts = [self.words_of(row) for row in rows]
        entities = [[(a, b, numbers[label]) for a, b, label in self.entities_of(row)] for row in rows]
        searched = [self._searched(row) for row in rows]
        known = [[-1] if each is None else sorted({numbers[label] for label in each}) for each in searched]
        columns: dict[str, list[Any]] = {}
        start, end = len(prompt.before), len(prompt.after)
        for window in windows_of_words(texts, tokenizer, prompt, self.fields):
            first, after = window.first, window.first + window.num_words
            inside = [
                [a - first, b - first, label] for a, b, label in entities[window.text] if first <= a and b < after
            ]
            row = {
                "input_ids": window.ids[start : len(window.ids) - end],
                "word_ids": window.word_ids[start : len(window.ids) - end],
                "row": window.text,
                "first": first,
                "owned": list(window.owned),
                "entities": inside,
                "searched": known[window.text],
            }
            for name, value in row.items():
                columns.setdefault(name, []).append(value)
        if not columns:
            raise UsageError(f"--text_column {self.text}: no example has a word.")
        counts = cast(WindowCounts, self.cut)
        counts.texts += len(texts)
        counts.windows += len(columns["row"])
        counts.tokens += sum(map(len, columns["input_ids"]))
        return Dataset.from_dict(columns)

    def evaluation_rows(self, encoded: Any) -> Any:
        """Add all labels to windows; or, if they do not fit, those of the text and as many others as fit."""
        from datasets import Dataset

        rng = np.random.default_rng(_EVALUATION_SEED)
        rows = self.draws.with_all(encoded[:], rng)
        return Dataset.from_list(rows)

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Any:
        """See `HeadTask`."""
        return Collator(cast(int, tokenizer.pad_token_id))

    # Evaluation.

    def metrics(self, rows: Any, inputs: Any) -> Metrics:
        """Return a function that computes precision, recall and F1 of exact spans with their labels."""

        def judge(prediction: EvalPrediction) -> dict[str, float]:
            found = self._found(rows, inputs, prediction)
            trained = self._of(found, unseen=False)
            if self.chooses_threshold:
                self.threshold = best_threshold(trained.spans, trained.truth)
            metrics = measured(trained.spans, trained.truth, self.threshold)
            metrics["f1_at_0.5"] = measured(trained.spans, trained.truth, 0.5)["f1"]
            if self.unseen:
                unseen = self._of(found, unseen=True)
                metrics["zero_shot_f1"] = measured(unseen.spans, unseen.truth, self.threshold)["f1"]
            return {**metrics, "threshold": self.threshold}

        return judge

    def _of(self, found: _Found, unseen: bool) -> _Found:
        """Return what was found for the labels that are not in the training, or for the others."""
        return _Found(
            [each for each in found.spans if (each[0][3] in self.unseen) == unseen],
            {each for each in found.truth if (each[3] in self.unseen) == unseen},
        )

    def _found(self, rows: Any, inputs: Any, prediction: EvalPrediction) -> _Found:
        """Return the spans of the model (N, M, 4) and the true ones, in the words and labels of the rows."""
        from ....modeling.extraction.span_choice import chosen

        by_text: dict[int, list[tuple[int, int, int, float]]] = {}
        for spans, window in zip(cast(np.ndarray, prediction.predictions), inputs, strict=True):
            low, high = window["owned"]
            for a, b, label, score in spans[spans[:, 3] > THRESHOLDS[0]].tolist():
                first, last = int(a) + window["first"], int(b) + window["first"]
                if low <= first + last <= high:
                    span = (first, last, window["candidates"][int(label)], score)
                    by_text.setdefault(window["row"], []).append(span)
        found, numbers = _Found(), {name: number for number, name in enumerate(self.names)}
        for number, row in enumerate(rows):
            found.spans += [((number, a, b, c), score) for a, b, c, score in chosen(by_text.get(number, []))]
            found.truth |= {(number, a, b, numbers[label]) for a, b, label in self.entities_of(row)}
        return found

    def by_label(self, rows: Any, inputs: Any, prediction: EvalPrediction) -> dict[str, dict[str, float]]:
        """Return the precision, recall, F1 and number of the entities of each label."""
        found = self._found(rows, inputs, prediction)
        return by_label(found.spans, found.truth, self.threshold, self.names)

    def answers(self, rows: Any, inputs: Any, found: EvalPrediction) -> list[Any]:
        """See `HeadTask`. The answer is a list of spans with their probabilities, in words or characters."""
        answers: list[list[dict[str, Any]]] = [[] for _ in range(len(rows))]
        places = None if self.by_words else [_places(text) for text in rows[self.text]]
        for (number, first, last, label), score in self._found(rows, inputs, found).spans:
            if score <= self.threshold:
                continue
            if places is None:
                place = {"first": first, "last": last}
            else:
                place = {"start": places[number][first][0], "end": places[number][last][1]}
            answers[number].append({**place, "label": self.names[label], "score": round(score, 4)})
        return answers


class Collator:
    """Pads the examples of a batch. The model leaves out the padding.

    Args:
        pad_id: The id of the padding token.
    """

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the inputs of `SequenceEncoderForSpanExtraction`."""
        import torch

        from ....modeling.label_checks import IGNORED

        length = max(len(row["input_ids"]) for row in rows)

        def padded(name: str, value: int) -> Any:
            return torch.tensor([[*row[name], *[value] * (length - len(row[name]))] for row in rows])

        most = max(1, *(len(row["labels"]) for row in rows))
        labels = [[*row["labels"], *[[IGNORED] * 3] * (most - len(row["labels"]))] for row in rows]
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        return {
            "input_ids": padded("input_ids", self.pad_id),
            "attention_mask": (torch.arange(length) < lengths[:, None]).long(),
            "word_ids": padded("word_ids", 0),
            "class_ids": padded("class_ids", 0),
            "labels": torch.tensor(labels),
        }


def _places(text: str) -> list[tuple[int, int]]:
    from ....modeling.extraction.text_windows import words_of

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
