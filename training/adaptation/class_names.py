"""Reads the names of classes, which `sequence-encoder adapt --label_names_file` takes in place of labelled texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...command_line import UsageError
from ...data.corpus_files import find_files
from ...data.text_files import TextFormat, text_lines
from ...tasks.columns import label_text
from ...tasks.example_files import ExampleFiles
from .examples.arguments import TaskDataArguments

_NAME, _DESCRIPTION = "label", "description"
# A sentence about a name is closer to texts than the name alone.
_TEMPLATES = ("{}", "{} text", "A text about {}.", "This text is {}.", "This text is about {}.", "The topic is {}.")


@dataclass(frozen=True)
class ClassNames:
    """The names of classes, and their descriptions, which may be empty."""

    descriptions: dict[str, str]

    @property
    def names(self) -> list[str]:
        """The names in the order of the file."""
        return list(self.descriptions)

    def texts_of(self, name: str) -> list[str]:
        """Return texts that stand for a class."""
        texts, described = [template.format(name) for template in _TEMPLATES], self.descriptions[name]
        # As many as the templates, so that their mean gives a description half of the weight.
        return [*texts, *[f"{name}: {described}", described] * (len(texts) // 2)] if described else texts


def read_class_names(data: TaskDataArguments) -> ClassNames:
    """Read `--label_names_file`: a name on each line, or a table with the columns `label` and `description`.

    Raises:
        UsageError: If the file cannot be read, or has fewer than two names or a name twice.
    """
    named = f"--label_names_file {data.label_names_file}"
    found = find_files(str(data.label_names_file), "label_names_file")
    if found is None:
        raise UsageError(f"{named}: there is no such file.")
    reader, files = found
    if reader == "text":
        rows: Sequence[tuple[Any, Any]] = [(line, None) for line in text_lines(files[0], data.encoding)]
    else:
        table = ExampleFiles(named, reader, files, TextFormat(data.encoding, data.delimiter)).load()
        if _NAME not in table.column_names:
            raise UsageError(
                f"{named} must have a column {_NAME}, and may have a column {_DESCRIPTION}, got the columns "
                f"{', '.join(table.column_names)}."
            )
        described = table[_DESCRIPTION] if _DESCRIPTION in table.column_names else [None] * len(table)
        rows = list(zip(table[_NAME], described, strict=True))
    names = ["" if name is None else label_text(name) for name, _ in rows]
    if "" in names:
        raise UsageError(f"{named} must have a name in every row, but row {names.index('') + 1} has none.")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UsageError(f"{named} must name every class once, but it names {twice[0]} {names.count(twice[0])} times.")
    if len(names) < 2:
        raise UsageError(f"{named} must name at least two classes, got {', '.join(names) or 'none'}.")
    descriptions = (str(description or "").strip() for _, description in rows)
    return ClassNames(dict(zip(names, descriptions, strict=True)))
