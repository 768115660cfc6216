"""An inverted index of sparse vectors, beside the table of LanceDB, which has none.

For each entry of the vocabulary, it lists the rows with a weight for it. A search adds up the products with the weights
of the query, and is exact. The arrays are mapped into memory, so a search only reads the lists of its query's entries.

Shapes: N rows.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from ..command_line import UsageError
from ..inference.corpora.formats import write_array
from .ranking import Ranking

_FOLDER = "postings"
# Rows to read at once.
_ROWS = 4096


class Postings:
    """An inverted index that `write_postings` has written, open for searches. Threads may share it.

    Args:
        folder: The folder of the index.
        table: The table of LanceDB.

    Raises:
        UsageError: If it is missing or damaged, or the table has other rows.
    """

    def __init__(self, folder: Path, table: Any) -> None:
        place = folder / _FOLDER
        try:
            names = ("starts", "rows", "weights", "count")
            arrays = [np.load(place / f"{name}.npy", mmap_mode="r") for name in names]
            self._starts, self._rows, self._weights, count = arrays
            if not self._starts[-1] == len(self._rows) == len(self._weights):
                raise ValueError("its files do not belong together")
        except (OSError, ValueError, EOFError) as error:
            raise UsageError(
                f"{place} is damaged ({error}); run the same `sequence-encoder index` again to repair it."
            ) from error
        self.table, self.count = table, int(count)
        if table.count_rows() != self.count:
            raise UsageError(f"the table in {folder} has changed since its index was made; make a new index.")

    def nearest(self, vector: Any, limit: int, where: str | None) -> Ranking:
        """Return the rows with the largest products with a vector.

        Args:
            vector: The indices and the values of the query.
            limit: The number of rows.
            where: A condition on the columns.
        """
        scores = self.scores(vector)
        if where is not None:
            allowed = self.table.search().where(where).select(["_rowoffset"]).to_arrow()["_rowoffset"].to_numpy()
            kept = np.zeros_like(scores)
            kept[allowed] = scores[allowed]
            scores = kept
        best = np.argsort(-scores, kind="stable")[:limit]
        best = best[scores[best] > 0]
        return Ranking(best, scores[best])

    def scores(self, vector: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        """Return the products (N,) of a vector, indices and values, with those of all rows."""
        found = np.zeros(self.count, np.float32)
        for index, value in zip(*vector, strict=True):
            part = slice(self._starts[index], self._starts[int(index) + 1])
            # No row has an entry twice.
            found[self._rows[part]] += value * self._weights[part]
        return found


def write_postings(folder: Path, table: Any, column: str, size: int) -> None:
    """Write the inverted index of a table. It takes twelve bytes of memory for each weight of 4,096 rows.

    Args:
        folder: The folder of the index.
        table: The table of LanceDB.
        column: The column with the vectors.
        size: The size of the vocabulary.
    """
    counts = np.zeros(size, np.int64)
    for _, indices, _ in _parts(table, column):
        counts += np.bincount(indices, minlength=size)
    starts = np.concatenate([[0], np.cumsum(counts)])
    place = folder / _FOLDER
    # Searches that have the former files open keep them.
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for name, array in (("starts", starts), ("count", np.array(table.count_rows()))):
        with (place / f"{name}.npy").open("wb") as output:
            write_array(output, array)
    shape = (int(starts[-1]),)
    all_rows, all_weights = (
        np.lib.format.open_memmap(place / f"{name}.npy", "w+", kind, shape)
        for name, kind in (("rows", np.dtype(np.int32)), ("weights", np.dtype(np.float32)))
    )
    for name in ("rows", "weights"):
        _allocate(place / f"{name}.npy")
    following = starts[:-1].copy()
    for rows, indices, values in _parts(table, column):
        order = np.argsort(indices, kind="stable")
        entries, firsts, number = np.unique(indices[order], return_index=True, return_counts=True)
        places = np.repeat(following[entries] - firsts, number) + np.arange(len(order))
        all_rows[places], all_weights[places] = rows[order], values[order]
        following[entries] += number
    for array in (all_rows, all_weights):
        array.flush()


def _allocate(file: Path) -> None:
    """Take the space of a file on the disk, so that a full one is an error here, and not a signal to the process later.

    Raises:
        OSError: If there is not enough space.
    """
    if hasattr(os, "posix_fallocate"):
        with file.open("rb+") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)


def _parts(table: Any, column: str) -> Iterator[tuple[np.ndarray[Any, Any], ...]]:
    """Yield the rows, the indices and the values of the weights of consecutive rows."""
    first = 0
    for batch in table.search().select([column]).to_batches(batch_size=_ROWS):
        # Unlike `field`, `flatten` makes the lists of a null row null.
        indices, values = batch.column(column).flatten()
        lengths = pc.fill_null(pc.list_value_length(indices), 0).to_numpy()
        rows = np.repeat(np.arange(first, first + len(batch)), lengths)
        first += len(batch)
        yield rows, indices.flatten().to_numpy().astype(np.int64), values.flatten().to_numpy()
