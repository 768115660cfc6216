"""The base class of tasks with a head of transformers: columns, labels, inputs and metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ...command_line.counts import unknown_in_words
from .columns import has_default_names

if TYPE_CHECKING:
    from transformers import BatchEncoding, EvalPrediction, PreTrainedTokenizerBase

    from .example_arguments import ExampleArguments

Examples = Mapping[str, Any]
Metrics = Callable[["EvalPrediction"], dict[str, float]]
# Prompts only suit heads with one answer per text: PEFT puts them before the tokens and so shifts their positions, but
# does not shift the labels of tokens and the positions of answers.
TUNINGS_OF_HEADS = ("full", "head", "lora", "dora", "ia3")
TUNINGS_OF_TEXTS = (*TUNINGS_OF_HEADS, "prompt", "adapter")


def tokenised(rows: Any, encode: Callable[[dict[str, list[Any]]], dict[str, Any]]) -> Any:
    """Replace the columns of all rows with the result of `encode`, which depends on options and is not cached."""
    return rows.map(
        encode, batched=True, remove_columns=rows.column_names, desc="Tokenising", load_from_cache_file=False
    )


@dataclass
class TruncationCounts:
    """Counts of the texts and tokens of a split, and of those that `max_length` truncates.

    Attributes:
        texts: The number of texts. A pair that the model reads together counts as one.
        cut: The number of truncated texts.
        tokens: The number of tokens that remain.
        lost: The number of tokens that truncation removes.
        unknown: The number of remaining tokens that the tokenizer does not know.
    """

    texts: int = 0
    cut: int = 0
    tokens: int = 0
    lost: int = 0
    unknown: int = 0

    def tokenise(
        self, tokenizer: Any, max_length: int, first: list[Any], second: list[Any] | None = None, **options: Any
    ) -> BatchEncoding:
        """Tokenise texts or text pairs, truncated to `max_length`, and count what truncation removes."""
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
        self.unknown += sum(ids.count(tokenizer.unk_token_id) for ids in encoded["input_ids"])
        return encoded

    def in_words(self, max_length: int) -> str:
        """Describe the counts in a sentence for the console."""
        said = f"no text is longer than {max_length} tokens"
        if self.cut:
            said = (
                f"{self.cut:,} of {self.texts:,} texts are truncated to {max_length} tokens (--max_length), which "
                f"drops {self.lost:,} of {self.tokens + self.lost:,} tokens"
            )
        return "; ".join(filter(None, [said, unknown_in_words(self.unknown, self.tokens)]))


class HeadTask(ABC):
    """A task with a head of transformers.

    Args:
        data: The source of the examples, and the names of their columns.
        max_length: The number of tokens that texts are truncated to. Set it before examples are encoded.

    Attributes:
        auto_class: The Auto class of transformers for the model.
        peft_task: PEFT's name of the task, or None.
        best_metric: The metric that selects the best weights by default.
        metric_names: All metrics of the task.
        tunings: The tuning methods that the task supports.
        libraries: Optional libraries that this task needs.
        hub_task: The task under which the Hub lists the model, or None if it is that of the head.
        label_column: The default name of the column with the labels.
        texts: The columns with the texts, set by `read`.
        label_fields: The fields of the configuration that describe the labels, set by `read`.
        cut: Counts of what `encode` truncates.
    """

    auto_class: ClassVar[str]
    peft_task: ClassVar[str | None]
    best_metric: ClassVar[str | None]
    metric_names: ClassVar[tuple[str, ...]]
    tunings: ClassVar[tuple[str, ...]] = TUNINGS_OF_HEADS
    libraries: ClassVar[tuple[str, ...]] = ()
    hub_task: ClassVar[str | None] = None
    label_column: ClassVar[str] = "label"

    def __init__(self, data: ExampleArguments, max_length: int = 0) -> None:
        self.data, self.max_length = data, max_length
        self.label_fields: dict[str, Any] = {}
        self.cut = TruncationCounts()
        self.texts: tuple[str, ...] = ()

    @abstractmethod
    def read(self, examples: Examples, known: list[str] | None = None) -> dict[str, Any]:
        """Check the examples of each split, and collect their labels.

        Args:
            examples: The examples of each split.
            known: The labels of a trained model, in the order of its outputs. Without them, the labels are those of the
                split `train`.

        Returns:
            The examples in the form that `encode` takes.

        Raises:
            UsageError: If the task cannot use the columns, texts or labels.
        """

    @abstractmethod
    def encode(self, rows: Any, tokenizer: PreTrainedTokenizerBase) -> Any:
        """Convert the examples of a split to a `datasets.Dataset` of model inputs."""

    @abstractmethod
    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Any:
        """Return the data collator for the inputs that `encode` returns."""

    @abstractmethod
    def metrics(self, rows: Any, inputs: Any) -> Metrics:
        """Return a function that computes the metrics of predictions for a split, the `compute_metrics` of a `Trainer`.

        Args:
            rows: The examples of the split.
            inputs: The examples as `encode` returns them.
        """

    @abstractmethod
    def answers(self, rows: Any, inputs: Any, found: EvalPrediction) -> list[Any]:
        """Convert the model's outputs to one answer per example, in the form of the labels where possible."""

    def constant(self, train: Any, inputs: Any) -> EvalPrediction | None:
        """Return the outputs of a baseline that always gives the same answer, chosen from the training labels."""
        return None

    def confusion(self, found: EvalPrediction) -> list[list[int]] | None:
        """Compute the confusion matrix, with true labels as rows, or return None for tasks without one."""
        return None

    @property
    def labels(self) -> list[str]:
        """The names of the classes in the order of the outputs, empty for tasks without classes."""
        return list(self.label_fields.get("id2label", {}).values())

    def follow(self, labels: list[str]) -> bool:
        """Adopt the label order of a trained head, and return whether it has the same labels."""
        if has_default_names(labels):
            labels = [str(index) for index in range(len(labels))]
        if set(labels) != set(self.labels):
            return False
        self._set_labels(labels)
        return True

    def _set_labels(self, labels: list[str]) -> None:
        self.label_fields["id2label"] = dict(enumerate(labels))
        self.label_fields["label2id"] = {name: index for index, name in enumerate(labels)}
