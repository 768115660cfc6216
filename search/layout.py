"""The file that `index` writes next to the LanceDB table, and `search` reads."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..command_line import UsageError
from ..inference.corpora.formats import FACTS, TABLE, connect
from ..saving.whole_folders import write_atomically

_FILE = "index.json"


@dataclass(frozen=True)
class Layout:
    """The content of `index.json`, which is written last: an index without it is not complete.

    Attributes:
        text_column: The column with the texts.
        language: The language of the full-text index.
        query_prompt: What to put before queries; None for the prompt of the model.
        rows: The number of rows.
        probes: The number of lists of vectors that a search looks at; None without an index of vectors, when a search
            compares all of them.
        recall: The share of the ten nearest vectors that the vector index finds, on average over rows of the index.
    """

    text_column: str
    language: str
    query_prompt: str | None
    rows: int
    probes: int | None
    recall: float | None

    def write(self, folder: Path) -> None:
        """Write the file into the folder of an index."""
        write_atomically(folder / _FILE, [json.dumps(asdict(self), indent=1)])

    @staticmethod
    def remove(folder: Path) -> None:
        """Remove the file in the folder of an index, which is no longer complete."""
        (folder / _FILE).unlink(missing_ok=True)

    @classmethod
    def read(cls, folder: Path) -> Layout:
        """Read the file in the folder of an index.

        Raises:
            UsageError: If there is no such file, or it is damaged.
        """
        if (layout := cls.read_if_complete(folder)) is None:
            raise UsageError(f"{folder} is not a complete index; make or complete one with `sequence-encoder index`.")
        return layout

    @classmethod
    def read_if_complete(cls, folder: Path) -> Layout | None:
        """Read the file in the folder of an index, or return None if there is no such file.

        Raises:
            UsageError: If it is damaged.
        """
        file = folder / _FILE
        try:
            return cls(**json.loads(file.read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, TypeError) as error:
            raise UsageError(f"{file} is damaged ({error}); delete it and run `sequence-encoder index`.") from error


def open_table(folder: Path) -> tuple[Any, dict[str, Any]]:
    """Open the table of an index, and return it with what describes its vectors."""
    table = connect(folder).open_table(TABLE)
    return table, json.loads(table.schema.metadata[FACTS.encode()])
