"""Examples that a program passes instead of files: a list of dictionaries, or a `datasets.Dataset`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...command_line import UsageError
from ...data.row_files import Row, RowFiles
from ...data.text_files import TextFormat
from ...evaluation.tasks.example_arguments import ExampleFiles


@dataclass(frozen=True)
class Dictionaries(RowFiles):
    """Rows that are read like those of a JSON Lines file."""

    named: str = ""
    given: Sequence[Mapping[str, Any]] = field(default=(), repr=False)

    def rows(self) -> Iterator[Row]:
        """Yield all rows."""
        return (dict(row) for row in self.given)

    def places(self) -> Iterator[str]:
        """Yield the location of each row."""
        return (f"row {index} (from 0) of {self.named}" for index in range(len(self.given)))


@dataclass(frozen=True)
class GivenRows(ExampleFiles):
    """The rows of one split, in the place of its files.

    Args:
        examples: A list of dictionaries, or a `datasets.Dataset`.
    """

    examples: Any = None

    @classmethod
    def of(cls, split: str, examples: Any) -> GivenRows:
        """Take the examples of a split.

        Raises:
            UsageError: If these are not rows.
        """
        from datasets import Dataset

        if isinstance(examples, Dataset):
            return cls(split, "", [], TextFormat(), examples)
        if not isinstance(examples, Sequence):
            kind = type(examples).__name__
            raise UsageError(
                f"{split} must be a list of dictionaries, a datasets.Dataset or the name of a file, got {kind}."
            )
        for index, row in enumerate(examples):
            if not isinstance(row, Mapping):
                raise UsageError(f"{split} must be a list of dictionaries, but row {index} (from 0) is {row!r}.")
        return cls(split, "json", [], TextFormat(), examples)

    @property
    def rows(self) -> RowFiles | None:
        """The dictionaries, or None for a `datasets.Dataset`."""
        return Dictionaries("json", [], self.text_format, self.named, self.examples) if self.reader else None

    def load(self) -> Any:
        """Return the rows as a `datasets.Dataset`.

        Raises:
            UsageError: If there are no rows.
        """
        if not len(self.examples):
            raise UsageError(f"{self.named} has no examples.")
        return super().load() if self.reader else self.examples.with_format(None)

    def places(self, indices: Iterable[int]) -> dict[int, str]:
        """Return the locations of several rows."""
        return {index: f"row {index} (from 0) of {self.named}" for index in indices}
