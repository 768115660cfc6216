"""Extractive question answering. Long contexts are split into overlapping windows."""

from __future__ import annotations

import copy
import re
import string
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...command_line import UsageError
from .columns import check_columns, check_texts, check_values
from .task import Examples, HeadTask, Metrics

if TYPE_CHECKING:
    from transformers import EvalPrediction, PreTrainedTokenizerBase

    from ...inference.pipelines.question_answering import Offsets

# Maximum number of tokens in a question and in an answer.
_QUESTION, _ANSWER = 64, 30


class Answers(HeadTask):
    """Question answering with answers as in SQuAD: `{"text": [...], "answer_start": [...]}`, empty if unanswerable."""

    auto_class = "AutoModelForQuestionAnswering"
    peft_task = "QUESTION_ANS"
    best_metric = "f1"
    metric_names = ("exact_match", "f1")
    label_column = "answers"

    def read(self, examples: Examples, known: list[str] | None = None) -> dict[str, Any]:
        """See `HeadTask`."""
        data = self.data
        self.question, self.context = data.text_column or "question", data.text_pair_column or "context"
        self.label = data.label_column or self.label_column
        self.texts = (self.question, self.context)
        columns = {"text_column": self.question, "text_pair_column": self.context, "label_column": self.label}
        check_columns(examples, columns)
        check_texts(data, examples, "text_column", self.question)
        check_texts(data, examples, "text_pair_column", self.context)
        allowed = "text and answer_start, lists of the same length"
        check_values(data, examples, "label_column", self.label, _is_answers, allowed)
        self.impossible = False
        for split, rows in examples.items():
            for row, (context, answers) in enumerate(zip(rows[self.context], rows[self.label], strict=True)):
                self.impossible |= not answers["text"]
                for text, start in zip(answers["text"], answers["answer_start"], strict=True):
                    if start < 0 or not text or context[start : start + len(text)] != text:
                        raise UsageError(
                            f"--label_column {self.label}: {data.place_of(split, row)} has the answer {text!r} at "
                            f"{start}, but its context of {len(context)} characters does not contain it there."
                        )
        return dict(examples)

    def encode(self, rows: Any, tokenizer: PreTrainedTokenizerBase) -> Any:
        """See `HeadTask`. Each window is an input with the answer's first and last token, or token 0 without answer."""
        from datasets import Dataset

        from ...inference.pipelines.question_answering import windows_of

        items: list[dict[str, Any]] = []
        for row, (question, context, answers) in enumerate(
            zip(rows[self.question], rows[self.context], rows[self.label], strict=True)
        ):
            try:
                encoded, offsets = windows_of(
                    tokenizer, question, context, self.max_length, self.data.doc_stride, _QUESTION
                )
            except ValueError as error:
                raise UsageError(f"--max_length {self.max_length} is too short: {error}") from error
            names = [name for name in tokenizer.model_input_names if name in encoded]
            span = None
            if answers["text"]:
                span = (answers["answer_start"][0], answers["answer_start"][0] + len(answers["text"][0]))
            for index, window in enumerate(offsets):
                start, end = _tokens_of(span, window)
                items.append(
                    {
                        **{name: encoded[name][index] for name in names},
                        "start_positions": start,
                        "end_positions": end,
                        # The metrics need these; the model does not.
                        "row": row,
                        "offsets": window,
                    }
                )
        return Dataset.from_list(items)

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Any:
        """See `HeadTask`."""
        from transformers import DataCollatorWithPadding

        # Padding on the left would shift the positions of answers.
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.padding_side = "right"
        return DataCollatorWithPadding(tokenizer)

    def metrics(self, rows: Any, inputs: Any) -> Metrics:
        """Return a function that computes the exact match and the word F1 of SQuAD, in percent."""

        def judge(prediction: EvalPrediction) -> dict[str, float]:
            answers = self.answers(rows, inputs, prediction)
            exact, f1 = zip(*map(self.agreement, answers, rows[self.label]), strict=True)
            return {"exact_match": 100 * sum(exact) / len(answers), "f1": 100 * sum(f1) / len(answers)}

        return judge

    @staticmethod
    def agreement(answer: str, known: Mapping[str, Any]) -> tuple[float, float]:
        """Return the exact match and the word F1 of an answer, each the best over the known answers, from 0 to 1."""
        words, true = _words(answer), [_words(text) for text in known["text"] or [""]]
        return max(float(words == each) for each in true), max(_overlap(words, each) for each in true)

    def answers(self, rows: Any, inputs: Any, found: EvalPrediction) -> list[Any]:
        """See `HeadTask`. The answer is the best of all windows of a context, or an empty string."""
        return [answer for answer, _ in self.scored_answers(rows, inputs, found)]

    def scored_answers(self, rows: Any, inputs: Any, found: EvalPrediction) -> list[tuple[str, float]]:
        """Return the answers, and their scores from 0 to 1."""
        import torch

        from ...inference.pipelines.question_answering import best_answers

        starts, ends = (torch.as_tensor(logits) for logits in found.predictions[:2])
        of_row: dict[int, list[Any]] = {}
        for index, (row, offsets) in enumerate(zip(inputs["row"], inputs["offsets"], strict=True)):
            tokens = len(offsets)
            of_row.setdefault(row, []).append((starts[index, :tokens], ends[index, :tokens], offsets))
        best = (
            best_answers(of_row[row], context, 1, _ANSWER, self.impossible)
            for row, context in enumerate(rows[self.context])
        )
        return [(answers[0]["answer"], answers[0]["score"]) if answers else ("", 0.0) for answers in best]


def _tokens_of(span: tuple[int, int] | None, offsets: Offsets) -> tuple[int, int]:
    """Return the first and last token of a span of characters, or (0, 0) if the window does not contain all of it."""
    if span is None:
        return 0, 0
    of_context = [(index, place) for index, place in enumerate(offsets) if place is not None]
    if not of_context or of_context[0][1][0] > span[0] or of_context[-1][1][1] < span[1]:
        return 0, 0
    inside = [index for index, (start, end) in of_context if start < span[1] and end > span[0]]
    return (inside[0], inside[-1]) if inside else (0, 0)


def _words(answer: str) -> list[str]:
    """Split an answer into words as SQuAD does: lowercased, without punctuation and articles."""
    plain = "".join(character for character in answer.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", plain).split()


def _overlap(found: list[str], true: list[str]) -> float:
    """Compute the F1 of the words of two answers."""
    if not found or not true:
        return float(found == true)
    common = sum((Counter(found) & Counter(true)).values())
    return 2 * common / (len(found) + len(true))


def _is_answers(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("text"), list)
        and isinstance(value.get("answer_start"), list)
        and len(value["text"]) == len(value["answer_start"])
        and all(isinstance(start, int) for start in value["answer_start"])
    )
