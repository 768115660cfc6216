"""Rankings of rows whose order does not depend on how many rows a search asks for, and the texts that it finds.

Shapes: N rows that were found.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

# The number of rows of each side that a merged ranking takes into account.
POOL = 100
# The constant of reciprocal rank fusion, chosen on docstrings. With 60, as in the paper, long lists of weak matches
# outweigh the best match of one side.
SMOOTHING = 5
# How many times more rows to ask LanceDB for at once, if it has to be asked again.
GROWTH = 10


@dataclass(frozen=True)
class Ranking:
    """Rows of a table, the best first.

    Attributes:
        rows: (N,) their places in the table.
        scores: (N,) how well they fit.
    """

    rows: np.ndarray[Any, Any]
    scores: np.ndarray[Any, Any]

    @classmethod
    def sorted(cls, rows: np.ndarray[Any, Any], scores: np.ndarray[Any, Any]) -> Ranking:
        """Sort rows by their scores. Those with the same score stay in the order of the table."""
        order = np.lexsort((rows, -scores))
        return cls(rows[order], scores[order])

    def first(self, limit: int) -> Ranking:
        """Return the first rows."""
        return Ranking(self.rows[:limit], self.scores[:limit])

    def followed_by(self, other: Ranking) -> Ranking:
        """Return these rows, and then the other ones of another ranking."""
        new = ~np.isin(other.rows, self.rows)
        rows, scores = np.concatenate([self.rows, other.rows[new]]), np.concatenate([self.scores, other.scores[new]])
        return Ranking(rows, scores)


def ranking_of(request: Any, size: int, column: str, sign: int = 1) -> Ranking:
    """Run a request of LanceDB.

    Args:
        request: The request.
        size: The number of rows to ask for.
        column: The column of the request that says how well a row fits.
        sign: -1 if the best rows have the lowest values.
    """
    found = request.select(["_rowoffset", column]).limit(size).to_arrow()
    rows, values = found["_rowoffset"].to_numpy(), found[column].to_numpy()
    return Ranking.sorted(rows.astype(np.int64), sign * values.astype(np.float64))


def exact_ranking_of(request: Any, limit: int, column: str, sign: int = 1) -> Ranking:
    """Run a request of LanceDB that finds the best rows without error.

    LanceDB returns any of the rows that are as good as the last one, so the request grows until it has all of them.
    The arguments are those of `ranking_of`.
    """
    size = limit + 1
    while True:
        found = ranking_of(request, size, column, sign)
        if len(found.rows) < size or found.scores[limit - 1] != found.scores[-1]:
            return found.first(limit)
        size *= GROWTH


def merged(first: Ranking, second: Ranking) -> Ranking:
    """Merge two rankings by the ranks of their rows (reciprocal rank fusion, Cormack et al., 2009).

    A row's score is the sum of the inverse ranks that it has among the first `POOL` rows of each side. A row that is
    there on neither side has that of its better rank, which is lower. So the rows of longer rankings come last.

    Args:
        first: A ranking of at least `POOL` rows, if so many were found.
        second: Another one.
    """
    rows, places = np.unique(np.concatenate([first.rows, second.rows]), return_inverse=True)
    inverse = np.zeros((2, len(rows)))
    inverse[0, places[: len(first.rows)]] = 1 / (SMOOTHING + 1 + np.arange(len(first.rows)))
    inverse[1, places[len(first.rows) :]] = 1 / (SMOOTHING + 1 + np.arange(len(second.rows)))
    counted = np.where(inverse >= 1 / (SMOOTHING + POOL), inverse, 0).sum(0)
    return Ranking.sorted(rows, np.where(counted > 0, counted, inverse.max(0)))


@dataclass(frozen=True)
class SearchHit:
    """A text that a search has found.

    Attributes:
        id: The id of its row.
        text: The text.
        score: How well it fits, for comparison with other hits of the same search: the cosine of the vectors (the
            product of sparse ones, the sum of the largest cosines of several ones), BM25, the sum of inverse ranks, or
            the score of the reranker.
        fields: The other columns of the index.
    """

    id: Any
    text: str
    score: float
    fields: dict[str, Any] = field(default_factory=dict)
