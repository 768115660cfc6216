"""Checks of the columns of examples, before anything is computed: what is missing, empty or of another kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .. import UsageError

# Rows that are named in an error.
_SHOWN = 3


def check_there(examples: Mapping[str, Any], columns: Mapping[str, str | None]) -> None:
    """Checks that every split has the columns.

    Args:
        examples: a `datasets.Dataset` for each split.
        columns: the name of each, by the argument that says so.

    Raises:
        UsageError: if one is not there; it says which there are.
    """
    for split, rows in examples.items():
        for argument, column in columns.items():
            if column is not None and column not in rows.column_names:
                raise UsageError(
                    f"--{argument} {column} is not in the {split} examples; choose one of "
                    f"{', '.join(rows.column_names)}."
                )


def check_values(
    examples: Mapping[str, Any], argument: str, column: str, is_allowed: Callable[[Any], bool], allowed: str
) -> None:
    """Checks every value of a column.

    Raises:
        UsageError: if one is not allowed, such as an empty cell; it says in which rows.
    """
    for split, rows in examples.items():
        wrong = [row for row, value in enumerate(rows[column]) if not is_allowed(value)]
        if wrong:
            shown = ", ".join(f"row {row} has {rows[column][row]!r}" for row in wrong[:_SHOWN])
            more = f", and {len(wrong) - _SHOWN} more rows are like that" if len(wrong) > _SHOWN else ""
            raise UsageError(f"--{argument} {column} must hold {allowed}; of the {split} examples {shown}{more}.")


def check_texts(examples: Mapping[str, Any], argument: str, column: str | None) -> None:
    """Checks that a column holds a text in every row.

    Raises:
        UsageError: if it does not.
    """
    if column is not None:
        check_values(examples, argument, column, lambda value: isinstance(value, str), "a text in every row")


def check_varies(examples: Mapping[str, Any], column: str) -> None:
    """Checks that the training examples have two labels or more.

    Raises:
        UsageError: if they have one.
    """
    if len(set(examples["train"][column])) < 2:
        raise UsageError(f"--label_column {column} is the same in all training examples; nothing can be learned.")


def label_text(value: Any) -> str:
    """A label as its name: that of a number does not depend on whether a file has it as 1 or as 1.0."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def label_names(examples: Mapping[str, Any], column: str, values: Callable[[Any], Iterable[Any]]) -> list[str]:
    """The names of the labels of the training examples, in order: numbers by their size, words by the alphabet.

    Args:
        examples: for each split.
        column: of the labels.
        values: the labels in a cell.

    Raises:
        UsageError: if there is one label alone, or another split has one that the training examples have not.
    """
    found = {split: {label_text(x) for cell in rows[column] for x in values(cell)} for split, rows in examples.items()}
    names = sorted(found["train"], key=_order)
    if len(names) < 2:
        raise UsageError(
            f"--label_column {column} must hold two labels or more, and the training examples have "
            f"{', '.join(names) or 'none'}."
        )
    for split, labels in found.items():
        if unseen := sorted(labels - found["train"]):
            raise UsageError(
                f"--label_column {column}: the {split} examples have the labels {', '.join(unseen[:5])}, of which "
                f"there is none to train on; those are {', '.join(names[:20])}."
            )
    return names


def _order(name: str) -> tuple[bool, float, str]:
    try:
        return False, float(name), name
    except ValueError:
        return True, 0.0, name


def names_of_numbers(feature: Any) -> list[str] | None:
    """The names that a `datasets` feature has for its numbers, itself or in lists; None where it has none."""
    while hasattr(feature, "feature"):
        feature = feature.feature
    return list(feature.names) if hasattr(feature, "names") and hasattr(feature, "str2int") else None


def named(rows: Any, column: str) -> Any:
    """The rows with numbers in a column replaced by the names that the dataset has for them, if it has any."""
    names = names_of_numbers(rows.features[column])
    if names is None:
        return rows

    def name(value: Any) -> Any:
        if isinstance(value, list):
            return [name(each) for each in value]
        return names[value] if value is not None and 0 <= value < len(names) else None

    values = [name(value) for value in rows[column]]
    return rows.remove_columns(column).add_column(column, values)
