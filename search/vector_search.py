"""How the vectors of each kind are indexed and searched.

LanceDB has indexes of dense vectors and of multi-vectors. For sparse vectors, see `postings`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..command_line import UsageError
from ..data.vector_kinds import DENSE, SPARSE, TOKEN
from ..inference.corpora.listed_vectors import COLUMNS
from .postings import Postings, write_postings
from .ranking import GROWTH, POOL, Ranking, exact_ranking_of, ranking_of

# An index of bits (RaBitQ, Gao and Long, 2024) takes eight channels to a byte.
_CHANNELS = 8
# The share of neighbours that an index should find, and the numbers of its lists of vectors to look at, to choose from.
_LEAST_RECALL, _PROBES = 0.97, (20, 80)
# The number of rows whose nearest neighbours are compared, to measure the recall, and of these neighbours.
_MEASURED, NEIGHBOURS = 100, 10
# Of the distances of vectors that are the same.
_TOLERANCE = 1e-6
# How many times more candidates than rows to compare with exact vectors.
_REFINED = 3
# Vectors of a text that stand for a query when the recall is measured.
_QUERY_VECTORS = 32


class VectorSearch(Protocol):
    """The search among the vectors of a table.

    Attributes:
        column: The column with the vectors.
    """

    column: str

    def is_whole(self) -> bool:
        """Return whether what `add_index` has written beside the table can be used."""

    def add_index(self) -> tuple[int | None, float | None]:
        """Add an index if it is faster, and return its probes and its recall; None if a search is exact."""

    def nearest(self, vector: Any, limit: int, probes: int | None, where: str | None = None) -> Ranking:
        """Return the rows whose vectors fit best.

        Args:
            vector: The vector of the query.
            limit: The number of rows.
            probes: See `add_index`.
            where: A condition on the columns.
        """

    def cosine(self, stored: Any, found: Any) -> float | None:
        """Return the cosine of what a row stores and the vector of a model; None if one of them is 0."""


class LanceSearch:
    """The search with LanceDB, by cosine.

    Args:
        table: The table of LanceDB.
        column: The column with the vectors.
        several: Whether a row has several vectors. A row is then as near as the sum of the largest cosines of each
            vector of the query (MaxSim).
        fewest: With fewer rows, comparing all vectors is as fast as an index, and exact.
    """

    def __init__(self, table: Any, column: str, *, several: bool, fewest: int) -> None:
        self.table, self.column = table, column
        self._several, self._fewest = several, fewest

    def is_whole(self) -> bool:
        """See `VectorSearch.is_whole`. There is nothing beside the table."""
        return True

    def add_index(self) -> tuple[int | None, float | None]:
        """Add the smallest and fastest index that finds nearly all neighbours. See `VectorSearch.add_index`."""
        from lancedb.index import IvfFlat, IvfRq, IvfSq

        count, vectors = self.table.count_rows(), self.table.count_rows(f"{self.column} IS NOT NULL")
        if vectors < self._fewest:
            return None, None
        probes, recall = _PROBES[0], 0.0
        for each in (IvfRq, IvfSq, IvfFlat)[bool(self._channels % _CHANNELS) :]:
            self.table.create_index(self.column, config=each(distance_type="cosine"), replace=True)
            for probes in _PROBES:
                recall = self._measure_recall(count, vectors, probes)
                if recall >= _LEAST_RECALL:
                    return probes, recall
        return probes, recall

    def nearest(self, vector: Any, limit: int, probes: int | None, where: str | None = None) -> Ranking:
        """Return rows with their cosines, or the sums of the largest ones. See `VectorSearch.nearest`."""
        # LanceDB needs a vector, also of a query that has none.
        given = vector if len(vector) else np.zeros((1, self._channels), np.float32)
        request = self.table.search(given, vector_column_name=self.column).distance_type("cosine")
        if where is not None:
            request = request.where(where)
        if probes is None:
            found = exact_ranking_of(request.bypass_vector_index(), limit, "_distance", -1)
        else:
            request, size = request.nprobes(probes).refine_factor(_REFINED), POOL
            found = ranking_of(request, size, "_distance", -1)
            # A larger request compares more candidates, and can find other rows among the first ones.
            while len(found.rows) == size < limit:
                size *= GROWTH
                found = found.followed_by(ranking_of(request, size, "_distance", -1)).first(size)
        return Ranking(found.rows, found.scores + (len(given) if self._several else 1)).first(limit)

    def cosine(self, stored: Any, found: Any) -> float | None:
        """See `VectorSearch.cosine`."""
        first, second = (np.asarray(each, np.float32).ravel() for each in (stored, found))
        return _cosine(first, second) if first.shape == second.shape else 0.0

    @property
    def _channels(self) -> int:
        kind = self.table.schema.field(self.column).type
        return int((kind.value_type if self._several else kind).list_size)

    def _measure_recall(self, count: int, vectors: int, probes: int) -> float:
        """Return the share of the nearest neighbours of random rows that the index finds."""
        # Twice as many as needed, because some rows may have no vector.
        rows = sorted(random.Random(0).sample(range(count), min(count, 2 * _MEASURED * count // vectors)))
        stored = self.table.take_offsets(rows).select([self.column]).to_arrow().column(self.column).drop_null()
        queries = [query for query in stored[:_MEASURED].to_pylist() if query]
        found = 0
        for query in queries:
            vector = np.array(query[:_QUERY_VECTORS] if self._several else query, np.float32)
            near, exact = (self.nearest(vector, NEIGHBOURS, each).scores for each in (probes, None))
            # Rows with the same text are equally near, and any of them will do.
            found += int((near >= exact.min() - _TOLERANCE).sum())
        return found / (NEIGHBOURS * len(queries))


class SparseSearch:
    """The search among sparse vectors, by their product with that of a query.

    Args:
        table: The table of LanceDB.
        column: The column with the vectors.
        folder: The folder of the index.
        size: The size of the vocabulary.
    """

    def __init__(self, table: Any, column: str, folder: Path, size: int) -> None:
        self.table, self.column, self._folder, self._size = table, column, folder, size

    @cached_property
    def postings(self) -> Postings:
        """The inverted index."""
        return Postings(self._folder, self.table)

    def is_whole(self) -> bool:
        """See `VectorSearch.is_whole`."""
        try:
            return self.postings is not None
        except UsageError:
            return False

    def add_index(self) -> tuple[int | None, float | None]:
        """Write the inverted index. See `VectorSearch.add_index`."""
        write_postings(self._folder, self.table, self.column, self._size)
        return None, None

    def nearest(self, vector: Any, limit: int, probes: int | None, where: str | None = None) -> Ranking:
        """Return rows with the products of their vectors. See `VectorSearch.nearest`."""
        return self.postings.nearest(vector, limit, where)

    def cosine(self, stored: Any, found: Any) -> float | None:
        """See `VectorSearch.cosine`."""
        both = np.zeros((2, self._size), np.float32)
        for row, (indices, values) in zip(both, ((stored["indices"], stored["values"]), found), strict=True):
            row[np.asarray(indices, np.int64)] = values
        return _cosine(*both)


def vector_search(table: Any, folder: Path, facts: Mapping[str, Any]) -> VectorSearch:
    """Return the search for the first kind of vectors of a table.

    Args:
        table: The table of LanceDB.
        folder: The folder of the index.
        facts: What describes the vectors, as `embed` has written it.
    """
    kind = facts.get("vectors", [DENSE])[0]
    column = COLUMNS[kind].name
    if kind == SPARSE:
        return SparseSearch(table, column, folder, facts["dimensions"][0])
    if kind == TOKEN:
        # A text has dozens of vectors.
        return LanceSearch(table, column, several=True, fewest=2_000)
    return LanceSearch(table, column, several=False, fewest=10_000)


def _cosine(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> float | None:
    lengths = np.linalg.norm(first) * np.linalg.norm(second)
    return float(first @ second / lengths) if lengths else None
