"""Zero-shot extraction: spans of words with labels that the model reads, and the measures of exact spans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import harmonic_mean
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from ....command_line import UsageError
from ....command_line.counts import counted
from ....evaluation.tasks.columns import label_text
from ....evaluation.tasks.span_examples import SpanExamples, places_of
from ....evaluation.tasks.task import Examples, HeadTask, Metrics, TruncationCounts
from .label_draws import LabelDraws

if TYPE_CHECKING:
    from transformers import EvalPrediction, PreTrainedTokenizerBase

    from ....evaluation.tasks.example_arguments import ExampleArguments

# Text, first word, last word and label.
Span = tuple[int, int, int, int]
Scored = Sequence[tuple[Span, float]]
THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
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


class Extraction(SpanExamples, HeadTask):
    """Finds the spans of texts that fit labels, learnt from the examples that `SpanExamples` reads.

    Args:
        data: The source of the examples, and the names of their columns.
        max_length: The number of tokens of a window with its labels. Set it before examples are encoded.
        descriptions: What the model reads for a label, by its name.
        held_out: Labels to leave out of the training.

    Attributes:
        unseen: The numbers of the labels that no training example has.
        max_width: The number of words that nearly all training entities have at most.
        threshold: The probability from which spans count. Evaluations of the validation examples choose it.
        chooses_threshold: Whether the next evaluation does.
    """

    auto_class = "AutoModel"
    peft_task: ClassVar[str | None] = None
    best_metric = "f1"
    metric_names = ("precision", "recall", "f1", "f1_at_0.5", "zero_shot_f1", "harmonic_f1")
    tunings: ClassVar[tuple[str, ...]] = ("full",)
    libraries = ("seqeval",)
    hub_task = "token-classification"

    def __init__(
        self,
        data: ExampleArguments,
        max_length: int = 0,
        descriptions: Mapping[str, str] | None = None,
        held_out: Sequence[str] = (),
    ) -> None:
        SpanExamples.__init__(self, data)
        HeadTask.__init__(self, data, max_length)
        self.descriptions, self.held_out = dict(descriptions or {}), list(map(label_text, held_out))
        self.unseen: set[int] = set()
        self.threshold, self.chooses_threshold = 0.5, True
        self.cut: TruncationCounts = WindowCounts()

    # Reading.

    def read(self, examples: Examples, known: list[str] | None = None) -> dict[str, Any]:
        """See `HeadTask`."""
        rows = self.read_spans(examples)
        self.texts = (self.text,)
        widths = [last - first + 1 for row in rows["train"] for first, last, _ in self.entities_of(row)]
        if not widths:
            raise UsageError(f"--label_column {self.label}: the training examples have no entities.")
        self._check_names()
        quantile = int(np.quantile(widths, _WIDE_ENOUGH, method="higher"))
        self.max_width = min(max(quantile, _LEAST_WIDTH), _MOST_WIDTH)
        return rows

    def _check_names(self) -> None:
        names = self.names
        for argument, given in (("held_out_labels", self.held_out), ("label_descriptions", self.descriptions)):
            if unknown := [name for name in given if name not in names]:
                raise UsageError(
                    f"--{argument} names {', '.join(unknown[:5])}, which the examples do not have; they have "
                    f"{', '.join(names[:20])}."
                )
        self.unseen = {names.index(name) for name in self.held_out}
        if len(self.unseen) == len(names):
            raise UsageError("--held_out_labels names all labels of the examples, so nothing is left to train on.")

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
        searched = [self.searched(row) for row in rows]
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
            trained, unseen = self._of(found, unseen=False), self._of(found, unseen=True)
            # Without spans of held-out labels, there is nothing to choose by them.
            groups = [trained, unseen] if unseen.truth else [trained]
            if self.chooses_threshold:
                self.threshold = best_threshold(*((each.spans, each.truth) for each in groups))
            metrics = measured(trained.spans, trained.truth, self.threshold)
            metrics["f1_at_0.5"] = measured(trained.spans, trained.truth, 0.5)["f1"]
            if self.unseen:
                metrics["zero_shot_f1"] = measured(unseen.spans, unseen.truth, self.threshold)["f1"]
                of_groups = [measured(each.spans, each.truth, self.threshold)["f1"] for each in groups]
                metrics["harmonic_f1"] = harmonic_mean(of_groups)
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
        places = None if self.by_words else [places_of(text) for text in rows[self.text]]
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


def measured(spans: Scored, truth: set[Span], threshold: float) -> dict[str, float]:
    """Return the precision, recall and F1 of the spans above a threshold.

    Spans must not displace spans with a higher probability, so that fewer remain at a higher threshold.
    """
    kept = {span for span, score in spans if score > threshold}
    right = len(kept & truth)
    return {
        "precision": right / max(len(kept), 1),
        "recall": right / max(len(truth), 1),
        "f1": 2 * right / max(len(kept) + len(truth), 1),
    }


def best_threshold(*groups: tuple[Scored, set[Span]]) -> float:
    """Return the threshold with the best harmonic mean of the F1 of groups of labels, each with its spans and truth.

    Of several, it is the one nearest to 0.5.
    """

    def quality(threshold: float) -> tuple[float, float]:
        f1s = [measured(spans, truth, threshold)["f1"] for spans, truth in groups]
        return harmonic_mean(f1s), -abs(threshold - 0.5)

    return max(THRESHOLDS, key=quality)


def by_label(spans: Scored, truth: set[Span], threshold: float, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the measures and the number of true spans of each label that occurs in either."""
    found: dict[str, dict[str, float]] = {}
    for number, name in enumerate(names):
        own = [each for each in spans if each[0][3] == number and each[1] > threshold]
        true = {span for span in truth if span[3] == number}
        if own or true:
            found[name] = {**measured(own, true, threshold), "entities": len(true)}
    return found
