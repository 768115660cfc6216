"""Check and convert the columns of examples before anything is computed."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...command_line import UsageError
from ...command_line.counts import counted

if TYPE_CHECKING:
    from .example_arguments import ExampleArguments

# Maximum number of rows that an error shows, and of characters of each value.
_SHOWN, _CHARACTERS = 3, 80
# A whole number as pandas writes it in a column of floats.
_WHOLE = re.compile(r"-?\d+\.0+")


def check_columns(examples: Mapping[str, Any], columns: Mapping[str, str | list[str] | None]) -> None:
    """Check that every split has the columns, by the options that name them, and that all of them are different.

    Raises:
        UsageError: If a column is missing, or is named twice. A label that is also read as a text would give perfect
            but meaningless results.
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
                raise UsageError(f"{both} must name different columns, got {column} twice.")
            arguments[column] = argument


def _nearest(column: str, names: list[str]) -> str:
    by_case = {name.casefold(): name for name in names}
    found = difflib.get_close_matches(column.casefold(), by_case, 1)
    return f" Did you mean {by_case[found[0]]}?" if found else ""


def check_values(
    data: ExampleArguments,
    examples: Mapping[str, Any],
    argument: str,
    column: str,
    is_allowed: Callable[[Any], bool],
    allowed: str,
) -> None:
    """Check every value of the column that an option names.

    Raises:
        UsageError: If a value is not allowed. The message shows where it is.
    """
    for split, rows in examples.items():
        _check_cells(data, split, rows[column], argument, column, is_allowed, allowed)


def _check_cells(
    data: ExampleArguments,
    split: str,
    cells: Sequence[Any],
    argument: str,
    column: str,
    is_allowed: Callable[[Any], bool],
    allowed: str,
) -> None:
    wrong = [(row, value) for row, value in enumerate(cells) if not is_allowed(value)]
    if wrong:
        shown = ", ".join(f"{data.place_of(split, row)} has {_shown(value)}" for row, value in wrong[:_SHOWN])
        rest = counted(len(wrong) - _SHOWN, "more row is", "more rows are")
        more = f", and {rest} wrong" if len(wrong) > _SHOWN else ""
        raise UsageError(f"--{argument} {column} must contain {allowed}; {shown}{more}.")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS]}... ({len(text):,} characters)"


def check_texts(data: ExampleArguments, examples: Mapping[str, Any], argument: str, column: str | None) -> None:
    """Check that a column contains a text in every row, and print how many are empty. Without a column, do nothing.

    Raises:
        UsageError: If a row contains something else.
    """
    if column is None:
        return
    for split, rows in examples.items():
        cells = list(rows[column])
        written, _ = _as_written(data, split, rows, column)
        # The dataset has texts in place of numbers and booleans. A command may have made or selected its rows.
        if [None if cell is None else str(cell) for cell in written] == cells:
            cells = list(written)
        _check_cells(data, split, cells, argument, column, lambda value: isinstance(value, str), "a text in every row")
        if empty := sum(not text.strip() for text in rows[column]):
            verb = "is" if empty == 1 else "are"
            print(f"--{argument} {column}: {empty:,} of the {len(rows):,} {split} texts {verb} empty.")


def with_numbers(
    data: ExampleArguments,
    examples: Mapping[str, Any],
    column: str,
    is_allowed: Callable[[float], bool] = math.isfinite,
    allowed: str = "a number in every row",
) -> dict[str, Any]:
    """Convert the cells of a label column to numbers, of which some may not be allowed. In CSV files, they are strings.

    Raises:
        UsageError: If a cell is not an allowed number. The message shows where it is.
    """

    def check(value: Any) -> bool:
        number = _number(value)
        return number is not None and math.isfinite(number) and is_allowed(number)

    check_values(data, examples, "label_column", column, check, allowed)
    return {
        split: rows.remove_columns(column).add_column(column, [_number(value) for value in rows[column]])
        for split, rows in examples.items()
    }


def is_missing(value: Any) -> bool:
    """Return whether a row has no label yet, as in a file that somebody fills in."""
    return value is None or (isinstance(value, str) and not value.strip())


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number, or the text of one."""
    number = _number(value)
    return number is not None and math.isfinite(number)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def check_varies(examples: Mapping[str, Any], column: str) -> None:
    """Check that the training examples have at least two different labels.

    Raises:
        UsageError: If all labels are the same.
    """
    if len(set(examples["train"][column])) < 2:
        raise UsageError(
            f"--label_column {column} has the same value in all training examples, so there is nothing to learn."
        )


def label_text(value: Any) -> str:
    """Convert a label to its name: stripped, and with 1.0 written as 1, since files may contain either."""
    name = str(value).strip()
    return name.partition(".")[0] if _WHOLE.fullmatch(name) else name


def has_default_names(labels: Sequence[str]) -> bool:
    """Return whether labels are LABEL_0, LABEL_1, …, as transformers calls outputs that nobody has named."""
    return bool(labels) and list(labels) == [f"LABEL_{index}" for index in range(len(labels))]


def label_of(value: Any, labels: Sequence[str] = ()) -> str:
    """Convert a label to its name, as `label_text`, or an index to the name of that output of a model.

    An index is meant if the labels of the model have default names, which nobody writes into files.
    """
    name = label_text(value)
    if name.isdecimal() and int(name) < len(labels) and has_default_names(labels):
        return labels[int(name)]
    return name


def where_named(labels: Sequence[str]) -> str:
    """Return the end of an error about labels that a model lacks: where it names them, and how to name them."""
    end = " (id2label in its config.json)."
    if has_default_names(labels):
        end += ' Name its outputs there in their order, as in "id2label": {"0": "bad", "1": "good"}.'
    return end


def label_names(
    data: ExampleArguments,
    examples: Mapping[str, Any],
    column: str,
    values: Callable[[Any], Iterable[Any]],
    known: list[str] | None = None,
) -> list[str]:
    """Collect the label names of the training examples, with numbers in numeric and words in alphabetical order.

    `values` returns the labels in a cell. The labels of a trained model, `known`, are returned instead.

    Raises:
        UsageError: If there are fewer than two labels, if a split has a label that the training examples or the model
            lack, or if it writes a label in two ways.
    """
    check_spellings(data, examples, column, values)
    found = {
        split: {label_of(x, known or ()) for cell in rows[column] for x in values(cell)}
        for split, rows in examples.items()
    }
    names = known or sorted(found["train"], key=_order)
    if len(names) < 2:
        raise UsageError(
            f"--label_column {column} must contain at least two different labels, but the training examples have "
            f"{', '.join(names) or 'none'}."
        )
    for split, labels in found.items():
        if unseen := sorted(labels - set(names)):
            source = "the model only has" if known else "the training examples have only"
            more = f" and {len(unseen) - 5:,} more" if len(unseen) > 5 else ""
            raise UsageError(
                f"--label_column {column}: the {split} examples have the labels {', '.join(unseen[:5])}{more}, but "
                f"{source} {', '.join(names[:20])}{where_named(known) if known else '.'}"
            )
    warn_about_case(names, column)
    return names


def check_spellings(
    data: ExampleArguments, examples: Mapping[str, Any], column: str, values: Callable[[Any], Iterable[Any]]
) -> None:
    """Check that each split writes each label in one way: 1, 1.0 and "1" would become one label, as would "x" and "x ".

    Two splits may write it differently, since pandas turns 1 into 1.0 in some files. This is printed. `values` returns
    the labels in a cell.

    Raises:
        UsageError: If a split writes a label in two ways. The message shows where.
    """
    written: dict[str, tuple[str, str, bool]] = {}
    for split, rows in examples.items():
        found: dict[str, tuple[str, int]] = {}
        cells, has_types = _as_written(data, split, rows, column)
        for row, cell in enumerate(cells):
            for label in values(cell) if cell is not None else ():
                name, spelling = label_text(label), repr(label)
                before, place = found.setdefault(name, (spelling, row))
                if spelling != before:
                    raise UsageError(
                        f"--label_column {column}: {data.place_of(split, place)} has {before} and "
                        f"{data.place_of(split, row)} has {spelling}, which would become one label. Write the label "
                        "in one way, or rename one of the two."
                    )
        for name, (spelling, _) in found.items():
            other, before, had_types = written.setdefault(name, (split, spelling, has_types))
            if spelling != before and ((has_types and had_types) or spelling.strip("'") != before.strip("'")):
                print(
                    f"--label_column {column}: the label {name} is {before} in the {other} examples and {spelling} in "
                    f"the {split} examples."
                )


def _as_written(data: ExampleArguments, split: str, rows: Any, column: str) -> tuple[Sequence[Any], bool]:
    """Return the cells of a column, and whether the format distinguishes numbers from texts."""
    files = data.files_of(split)
    if files is None or files.rows is None:
        return rows[column], True
    if files.reader != "json":
        return rows[column], False
    # The dataset has one type for all cells.
    cells = [row.get(column) for row in files.rows.rows()]
    kept = data.kept_rows if split == "train" else None
    return cells if kept is None else [cells[row] for row in kept], True


def warn_about_case(names: Iterable[str], column: str) -> None:
    """Print the labels that differ only in case, which may be annotation mistakes."""
    same: dict[str, list[str]] = {}
    for name in names:
        same.setdefault(name.casefold(), []).append(name)
    for few in same.values():
        if len(few) > 1:
            print(f"--label_column {column}: {' and '.join(few)} differ only in case; they remain different labels.")


def _order(name: str) -> tuple[bool, float, str]:
    try:
        return False, float(name), name
    except ValueError:
        return True, 0.0, name


def names_of_numbers(feature: Any) -> list[str] | None:
    """Return the class names of a `datasets` feature, which may be nested in lists, or None without class names."""
    while hasattr(feature, "feature"):
        feature = feature.feature
    return list(feature.names) if hasattr(feature, "names") and hasattr(feature, "str2int") else None


def named(rows: Any, column: str, known: Sequence[str] | None = None) -> Any:
    """Replace class numbers in a column by their names, if the dataset has names for them and the model has names."""
    names = names_of_numbers(rows.features[column])
    if names is None or has_default_names(known or ()):
        return rows

    def name(value: Any) -> Any:
        if isinstance(value, list):
            return [name(each) for each in value]
        return names[value] if value is not None and 0 <= value < len(names) else None

    values = [name(value) for value in rows[column]]
    return rows.remove_columns(column).add_column(column, values)
