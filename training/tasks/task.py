"""What a task with a head of transformers is: its columns, its labels, how examples become inputs, its metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from transformers import EvalPrediction, PreTrainedTokenizerBase

if TYPE_CHECKING:
    from ..adaptation_arguments import TaskDataArguments

Examples = Mapping[str, Any]
Metrics = Callable[[EvalPrediction], dict[str, float]]
# Of all heads; and of those that give one answer a text. peft's prompts stand before the tokens and move their places,
# which labels of tokens and answers do not follow.
TUNINGS_OF_HEADS = ("full", "head", "lora", "dora", "ia3")
TUNINGS_OF_TEXTS = (*TUNINGS_OF_HEADS, "prompt", "adapter")


def tokenised(rows: Any, encode: Callable[[dict[str, list[Any]]], dict[str, Any]]) -> Any:
    """What a function makes of all rows, in place of their columns. Not cached: it depends on what is asked for."""
    return rows.map(
        encode, batched=True, remove_columns=rows.column_names, desc="Tokenising", load_from_cache_file=False
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
        texts: the columns that make up a text, known once examples were read.
        label_fields: of the configuration, known once examples were read.
    """

    auto_class: ClassVar[str]
    peft_task: ClassVar[str | None]
    best_metric: ClassVar[str | None]
    metric_names: ClassVar[tuple[str, ...]]
    tunings: ClassVar[tuple[str, ...]] = TUNINGS_OF_HEADS

    def __init__(self, data: TaskDataArguments, max_length: int = 0) -> None:
        self.data, self.max_length = data, max_length
        self.label_fields: dict[str, Any] = {}
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
