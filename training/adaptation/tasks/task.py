"""What a task with a head of transformers is: its columns, its labels, how examples become inputs, its metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from transformers import BatchEncoding, EvalPrediction, PreTrainedTokenizerBase

    from ..data_arguments import TaskDataArguments

Examples = Mapping[str, Any]
Metrics = Callable[["EvalPrediction"], dict[str, float]]
# Of all heads; and of those that give one answer a text. peft's prompts stand before the tokens and move their places,
# which labels of tokens and answers do not follow.
TUNINGS_OF_HEADS = ("full", "head", "lora", "dora", "ia3")
TUNINGS_OF_TEXTS = (*TUNINGS_OF_HEADS, "prompt", "adapter")


def tokenised(rows: Any, encode: Callable[[dict[str, list[Any]]], dict[str, Any]]) -> Any:
    """What a function makes of all rows, in place of their columns. Not cached: it depends on what is asked for."""
    return rows.map(
        encode, batched=True, remove_columns=rows.column_names, desc="Tokenising", load_from_cache_file=False
    )


@dataclass
class Cut:
    """What `max_length` leaves out of the texts of a split.

    Attributes:
        texts: all of them; a pair that is read together counts as one.
        cut: those that lose tokens.
        tokens: of all texts.
        lost: the tokens that are left out.
    """

    texts: int = 0
    cut: int = 0
    tokens: int = 0
    lost: int = 0

    def tokenise(
        self, tokenizer: Any, max_length: int, first: list[Any], second: list[Any] | None = None, **options: Any
    ) -> BatchEncoding:
        """Tokenise texts, or pairs of them, cut to `max_length`, and count what that cuts."""
        encoded = tokenizer(first, second, truncation=True, max_length=max_length, **options)
        lengths = [len(ids) for ids in encoded["input_ids"]]
        full = [row for row, length in enumerate(lengths) if length >= max_length]
        if full:
            columns = ([column[row] for row in full] if column is not None else None for column in (first, second))
            whole = tokenizer(*columns, truncation=False, verbose=False, **options)["input_ids"]
            lost = [len(ids) - lengths[row] for row, ids in zip(full, whole, strict=True)]
            self.cut += sum(tokens > 0 for tokens in lost)
            self.lost += sum(lost)
        self.texts += len(lengths)
        self.tokens += sum(lengths)
        return encoded

    def in_words(self, max_length: int) -> str:
        """A sentence for the console."""
        if not self.cut:
            return f"none of the texts is longer than {max_length} tokens"
        return (
            f"{self.cut:,} of {self.texts:,} texts are cut to {max_length} tokens (--max_length), and "
            f"{self.lost:,} of {self.tokens + self.lost:,} tokens are left out"
        )


class HeadTask(ABC):
    """A task, for certain columns of examples.

    Args:
        data: where the examples are, and what their columns are called.
        max_length: tokens that a text is cut to; to be set before examples are encoded.

    Attributes:
        auto_class: of transformers, for the model.
        peft_task: peft's name of it.
        best_metric: by which the best weights are chosen, if nothing else is asked for.
        metric_names: all that there are.
        tunings: the ways of tuning that there are for it.
        libraries: that it needs beside those of all tasks.
        texts: the columns that make up a text, known once examples were read.
        label_fields: of the configuration, known once examples were read.
        cut: what is cut of the texts that are encoded.
    """

    auto_class: ClassVar[str]
    peft_task: ClassVar[str | None]
    best_metric: ClassVar[str | None]
    metric_names: ClassVar[tuple[str, ...]]
    tunings: ClassVar[tuple[str, ...]] = TUNINGS_OF_HEADS
    libraries: ClassVar[tuple[str, ...]] = ()

    def __init__(self, data: TaskDataArguments, max_length: int = 0) -> None:
        self.data, self.max_length = data, max_length
        self.label_fields: dict[str, Any] = {}
        self.cut = Cut()
        self.texts: tuple[str, ...] = ()

    @abstractmethod
    def read(self, examples: Examples) -> dict[str, Any]:
        """Checks the examples of each split and learns their labels.

        Returns:
            The examples as `encode` wants them.

        Raises:
            UsageError: for columns, texts or labels that are not as they should be; nothing was computed yet.
        """

    @abstractmethod
    def encode(self, rows: Any, tokenizer: PreTrainedTokenizerBase) -> Any:
        """The examples of a split as inputs of the model: a `datasets.Dataset`."""

    @abstractmethod
    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Any:
        """Makes batches of what `encode` gives."""

    @abstractmethod
    def metrics(self, rows: Any, inputs: Any) -> Metrics:
        """Judges the predictions for the examples of a split, `rows`, encoded as `inputs`."""

    @abstractmethod
    def answers(self, rows: Any, inputs: Any, found: EvalPrediction) -> list[Any]:
        """What the model answers for each example of a split, in the form of the labels where it has one.

        Args:
            rows: the examples.
            inputs: the same, encoded.
            found: the outputs of the model for `inputs`.
        """

    def constant(self, train: Any, inputs: Any) -> EvalPrediction | None:
        """The outputs of a model that has only seen the labels of the training inputs, and always answers the same.

        None for tasks that have no such answer.
        """
        return None

    def confusion(self, found: EvalPrediction) -> list[list[int]] | None:
        """How often each label (rows) is taken for each other one (columns); None for tasks without such labels."""
        return None

    @property
    def labels(self) -> list[str]:
        """The names of the classes, in the order of the outputs; none for tasks without classes."""
        return list(self.label_fields.get("id2label", {}).values())

    def follow(self, labels: list[str]) -> bool:
        """Takes over the order of the labels of a trained head; returns whether they are the same labels."""
        if set(labels) != set(self.labels):
            return False
        self._set_labels(labels)
        return True

    def _set_labels(self, labels: list[str]) -> None:
        self.label_fields["id2label"] = dict(enumerate(labels))
        self.label_fields["label2id"] = {name: index for index, name in enumerate(labels)}
