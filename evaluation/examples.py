"""Reads the files to evaluate a model on, and checks them before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..command_line import UsageError
from ..command_line.counts import counted
from ..conversion.peft_adapters import check_merged
from ..inference.uses import with_learned_labels
from ..modeling import (
    SequenceEncoderForQuestionAnswering,
    SequenceEncoderForSequenceClassification,
    SequenceEncoderForSpanExtraction,
    SequenceEncoderForTokenClassification,
)
from .tasks import HEAD_TASKS
from .tasks.columns import check_values
from .tasks.example_arguments import ExampleArguments

# The number of tokens to truncate texts to, for a model and a tokenizer without a limit.
_LENGTH = 512
# What `task_of` is asked for by `calibrate`.
_CALIBRATED = "calibrated"
_KINDS = {"single_label_classification": "classification", "multi_label_classification": "multi-label"}


@dataclass(frozen=True)
class Examples:
    """The texts of a file.

    Attributes:
        name: The name of the file.
        task_name: The name of the task.
        task: The task, which has read them.
        rows: A `datasets.Dataset`. Without labels, it has a column of placeholders.
        labelled: Whether it has labels.
        texts: (N,) the texts, for the report.
    """

    name: str
    task_name: str
    task: Any
    rows: Any
    labelled: bool
    texts: list[str]

    @property
    def size(self) -> int:
        """The number of texts."""
        return len(self.texts)

    def places(self, indices: list[int]) -> dict[int, str]:
        """Return where rows are: in a file of the user, or in what was passed in Python."""
        if self.task.data.file_of(self.name) is None:
            return {index: f"row {index + 1} of {self.name}" for index in indices}
        return self.task.data.places_of(self.name, indices)

    def encode(self, model: Any, tokenizer: Any, max_length: int | None) -> Any:
        """Return a `datasets.Dataset` of inputs. Without a length, the model limits it.

        Raises:
            ValueError: If the model or the tokenizer does not allow the length.
        """
        self.task.max_length = model.base_model.longest_text(tokenizer, max_length) or _LENGTH
        return self.task.encode(self.rows, tokenizer)


def task_of(model: Any, action: str = "evaluated") -> str:
    """Return the name of the task of a model.

    Args:
        model: The model.
        action: What the caller wants to do, as a participle for the error, such as "calibrated".

    Raises:
        UsageError: If models for its task have no probabilities to evaluate or calibrate.
    """
    check_merged(model)
    labels = getattr(model, "num_labels", 0)
    if isinstance(model, SequenceEncoderForSequenceClassification) and labels > 1:
        kind = model.config.problem_type or "single_label_classification"
        if kind in _KINDS:
            return _KINDS[kind]
    if isinstance(model, SequenceEncoderForTokenClassification) and labels > 1:
        return "ner"
    if isinstance(model, SequenceEncoderForQuestionAnswering):
        return "qa"
    if action == _CALIBRATED and isinstance(model, SequenceEncoderForSpanExtraction):
        return "extraction"
    found = type(model).__name__
    if isinstance(model, SequenceEncoderForSequenceClassification | SequenceEncoderForTokenClassification):
        named = model.config.problem_type
        found += f" with {counted(labels, 'label')}{f' for {named}' if named else ''}"
    kinds = "for entities or for question answering"
    if action == _CALIBRATED:
        kinds = "for entities, for question answering or for span extraction"
    other = with_learned_labels(model)
    advice = "`sequence-encoder adapt --test_file` measures models for other tasks"
    if other is not None:
        advice = f"Labels that are only named in a call cannot be; use {other}"
    raise UsageError(
        f"model must be for classification with at least two labels, {kinds} to be {action}, got a {found}. {advice}."
    )


def read_examples(
    task_name: str, labels: list[str], examples: Mapping[str, Any], columns: ExampleArguments | None = None
) -> list[Examples]:
    """Check the rows of files, the first of which is home.

    Args:
        task_name: The name of the task.
        labels: The labels of the model.
        examples: The rows of each file: a list of dictionaries, or a `datasets.Dataset`.
        columns: The names of the columns.

    Raises:
        UsageError: If the rows cannot be evaluated.
    """
    from datasets import Dataset

    if not isinstance(examples, Mapping) or not examples:
        got = f"a {type(examples).__name__}" if examples else "none"
        raise UsageError(f"examples must map the name of at least one file to its rows, got {got}.")
    columns = columns or ExampleArguments()
    found = []
    for name, given in examples.items():
        if not isinstance(name, str) or not name.strip():
            raise UsageError(f"each file needs a name, such as home, got {name!r}.")
        if not len(given):
            raise UsageError(f"{name} has no examples.")
        rows = given if hasattr(given, "column_names") else Dataset.from_list([dict(row) for row in given])
        task = HEAD_TASKS[task_name](columns)
        column = columns.label_column or task.label_column
        labelled = column in rows.column_names
        if not labelled:
            rows = rows.add_column(column, [_placeholder(task_name, task, labels, row) for row in rows])
        rows = task.read({name: rows}, labels)[name]
        for text_column in task.texts:
            option = "text_pair_column" if text_column == columns.text_pair_column else "text_column"
            allowed = "a text that is not blank in every row"
            check_values(columns, {name: rows}, option, text_column, _has_characters, allowed)
        texts = [" | ".join(map(_as_text, cells)) for cells in zip(*(rows[each] for each in task.texts), strict=True)]
        found.append(Examples(name, task_name, task, rows, labelled, texts))
    _check_home(found, columns)
    if task_name == "qa":
        unanswerable = any(each.task.impossible for each in found if each.labelled)
        for each in found:
            each.task.impossible = unanswerable
    return found


def _check_home(found: list[Examples], columns: ExampleArguments) -> None:
    """Check what is compared with the first file."""
    home = found[0]
    if not any(each.labelled for each in found):
        column = columns.label_column or home.task.label_column
        names = ", ".join(each.name for each in found)
        raise UsageError(
            f"at least one file must have labels in the column {column} (--label_column), and {names} "
            f"{'has' if len(found) == 1 else 'have'} none."
        )
    if home.labelled and home.task.label_fields.get("problem_type") == "single_label_classification":
        present = sorted({str(label).strip() for label in home.rows[columns.label_column or home.task.label_column]})
        if len(present) < 2:
            raise UsageError(
                f"{home.name}, the first file, must have at least two different labels to compare others with, and "
                f"all of its texts have the label {present[0]}."
            )
    if len(found) > 1 and min(len(each.rows) for each in found) < 4:
        least = min(found, key=lambda each: len(each.rows))
        raise UsageError(f"a file needs at least 4 texts to be compared with others, and {least.name} has fewer.")


def _placeholder(task_name: str, task: Any, labels: list[str], row: Mapping[str, Any]) -> Any:
    """Return a label for a row without one, which no measure uses."""
    if task_name == "ner":
        # The name of the column is checked later.
        words = row.get(task.data.text_column or "tokens")
        return [labels[0]] * (len(words) if isinstance(words, list) else 0)
    if task_name == "qa":
        return {"text": [], "answer_start": []}
    return [] if task_name == "multi-label" else labels[0]


def _has_characters(value: Any) -> bool:
    words = value if isinstance(value, list) else [value]
    return any(str(word).strip() for word in words)


def _as_text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
