"""Checks of the columns of examples, before anything is computed: what is missing, empty or of another kind."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ....command_line import UsageError
from ..example_files import place_of

if TYPE_CHECKING:
    from ..data_arguments import TaskDataArguments

# Rows that are named in an error, and how much of each value.
_SHOWN, _CHARACTERS = 3, 80
# A whole number as pandas and others write it in a column of floats.
_WHOLE = re.compile(r"-?\d+\.0+")


def check_there(examples: Mapping[str, Any], columns: Mapping[str, str | list[str] | None]) -> None:
    """Checks that every split has the columns, and that no two of them are the same.

    Args:
        examples: a `datasets.Dataset` for each split.
        columns: the name of each, or several, by the argument that says so.

    Raises:
        UsageError: if one is not there; it says which there are. If one is named twice: a label that is read as a text
            makes results that are perfect and mean nothing.
    """
    arguments: dict[str, str] = {}
    for argument, named in columns.items():
        for column in [named] if isinstance(named, str) else named or []:
            for split, rows in examples.items():
                if column not in rows.column_names:
                    raise UsageError(
                        f"--{argument} {column} is not in the {split} examples; choose one of "
                        f"{', '.join(rows.column_names)}.{_nearest(column, rows.column_names)}"
                    )
            if column in arguments:
                both = " and ".join(f"--{name}" for name in dict.fromkeys((arguments[column], argument)))
                raise UsageError(f"{both} must name different columns, and {column} is named twice.")
            arguments[column] = argument


def _nearest(column: str, names: list[str]) -> str:
    by_case = {name.casefold(): name for name in names}
    found = difflib.get_close_matches(column.casefold(), by_case, 1)
    return f" Did you mean {by_case[found[0]]}?" if found else ""


def check_values(
    data: TaskDataArguments,
    examples: Mapping[str, Any],
    argument: str,
    column: str,
    is_allowed: Callable[[Any], bool],
    allowed: str,
) -> None:
    """Checks every value of a column.

    Raises:
        UsageError: if one is not allowed, such as an empty cell; it says where it is.
    """
    for split, rows in examples.items():
        wrong = [row for row, value in enumerate(rows[column]) if not is_allowed(value)]
        if wrong:
            shown = ", ".join(f"{place_of(data, split, row)} has {_shown(rows[column][row])}" for row in wrong[:_SHOWN])
            more = f", and {len(wrong) - _SHOWN} more rows are like that" if len(wrong) > _SHOWN else ""
            raise UsageError(f"--{argument} {column} must hold {allowed}; {shown}{more}.")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS]}... ({len(text):,} characters)"


def check_texts(data: TaskDataArguments, examples: Mapping[str, Any], argument: str, column: str | None) -> None:
    """Checks that a column holds a text in every row.

    Raises:
        UsageError: if it does not.
    """
    if column is not None:
        check_values(data, examples, argument, column, lambda value: isinstance(value, str), "a text in every row")


def with_numbers(
    data: TaskDataArguments,
    examples: Mapping[str, Any],
    column: str,
    is_allowed: Callable[[float], bool] = math.isfinite,
    allowed: str = "a number in every row",
) -> dict[str, Any]:
    """The examples with the cells of a label column as numbers, which CSV files have as texts.

    Raises:
        UsageError: if a cell is no number, or one that is not allowed; it says where it is.
    """

    def check(value: Any) -> bool:
        number = _number(value)
        return number is not None and math.isfinite(number) and is_allowed(number)

    check_values(data, examples, "label_column", column, check, allowed)
    return {
        split: rows.remove_columns(column).add_column(column, [_number(value) for value in rows[column]])
        for split, rows in examples.items()
    }


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def check_varies(examples: Mapping[str, Any], column: str) -> None:
    """Checks that the training examples have two labels or more.

    Raises:
        UsageError: if they have one.
    """
    if len(set(examples["train"][column])) < 2:
        raise UsageError(f"--label_column {column} is the same in all training examples; nothing can be learned.")


def label_text(value: Any) -> str:
    """A label as its name, without spaces around it; a file may have the same number as 1 or as 1.0."""
    name = str(value).strip()
    return name.partition(".")[0] if _WHOLE.fullmatch(name) else name


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
    warn_of_case(names, column)
    return names


def warn_of_case(names: Iterable[str], column: str) -> None:
    """Says which labels differ in nothing but capital letters, as slips of annotators do."""
    same: dict[str, list[str]] = {}
    for name in names:
        same.setdefault(name.casefold(), []).append(name)
    for few in same.values():
        if len(few) > 1:
            print(f"--label_column {column}: the labels {' and '.join(few)} differ only in case; they stay different.")


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
