"""Multiple choice, such as the ending of a story or the answer to a question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...command_line import UsageError
from .classification import logits_of, majority_logits, repeat_logits
from .columns import check_columns, check_texts, check_values, check_varies, with_numbers
from .task import Examples, HeadTask, Metrics, tokenised

if TYPE_CHECKING:
    from transformers import EvalPrediction, PreTrainedTokenizerBase


class Choices(HeadTask):
    """Multiple choice: a text, its choices, and the index of the right choice.

    Each choice has a column, or one column has lists of choices. If there is a second text column, its text is put
    before every choice, as in SWAG.
    """

    auto_class = "AutoModelForMultipleChoice"
    peft_task = None
    best_metric = "accuracy"
    metric_names = ("accuracy",)

    def read(self, examples: Examples, known: list[str] | None = None) -> dict[str, Any]:
        """See `HeadTask`."""
        data = self.data
        self.text, self.start = data.text_column or "text", data.text_pair_column
        self.label, self.choices = data.label_column or self.label_column, data.choice_columns or ["choices"]
        self.texts = (self.text, *([self.start] if self.start else []), *self.choices)
        columns = {"text_column": self.text, "text_pair_column": self.start, "label_column": self.label}
        check_columns(examples, {**columns, "choice_columns": self.choices})
        check_texts(data, examples, "text_column", self.text)
        check_texts(data, examples, "text_pair_column", self.start)
        if len(self.choices) == 1:
            check_values(data, examples, "choice_columns", self.choices[0], _is_texts, "a list of two texts or more")
            counts = {len(cell) for rows in examples.values() for cell in rows[self.choices[0]]}
            if len(counts) > 1:
                raise UsageError(
                    f"--choice_columns {self.choices[0]} must contain the same number of texts in every row, got "
                    f"{sorted(counts)}."
                )
            count = counts.pop()
        else:
            count = len(self.choices)
            for column in self.choices:
                check_texts(data, examples, "choice_columns", column)
        examples = with_numbers(
            data, examples, self.label, lambda value: value in range(count), f"the number of a choice, 0 to {count - 1}"
        )
        check_varies(examples, self.label)
        return examples

    def encode(self, rows: Any, tokenizer: PreTrainedTokenizerBase) -> Any:
        """See `HeadTask`. Each example has a list of inputs, one per choice."""

        def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
            size = len(batch[self.text])
            if len(self.choices) == 1:
                choices = batch[self.choices[0]]
            else:
                choices = [[batch[column][row] for column in self.choices] for row in range(size)]
            if self.start:
                choices = [
                    [f"{start} {text}" for text in of_row]
                    for start, of_row in zip(batch[self.start], choices, strict=True)
                ]
            count = len(choices[0])
            encoded = self.cut.tokenise(
                tokenizer,
                self.max_length,
                [text for text in batch[self.text] for _ in range(count)],
                [text for of_row in choices for text in of_row],
            )
            grouped = {
                name: [values[row * count : (row + 1) * count] for row in range(size)]
                for name, values in encoded.items()
            }
            return {**grouped, "labels": [int(label) for label in batch[self.label]]}

        return tokenised(rows, encode)

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Any:
        """See `HeadTask`."""
        from transformers import DataCollatorForMultipleChoice

        return DataCollatorForMultipleChoice(tokenizer)

    def metrics(self, rows: Any, inputs: Any) -> Metrics:
        """Return a function that computes the accuracy."""
        return _accuracy

    def answers(self, rows: Any, inputs: Any, found: EvalPrediction) -> list[Any]:
        """See `HeadTask`. The answer is the index of a choice."""
        return logits_of(found).argmax(-1).tolist()

    def constant(self, train: Any, inputs: Any) -> EvalPrediction | None:
        """See `HeadTask`. The constant answer is the index that is right most often."""
        return repeat_logits(majority_logits(train["labels"], len(inputs[0]["input_ids"])), inputs["labels"])


def _accuracy(prediction: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float((logits_of(prediction).argmax(-1) == np.asarray(prediction.label_ids)).mean())}


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(isinstance(text, str) for text in value)
