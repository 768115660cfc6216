"""Searches an index by meaning, by words, or by both.

By meaning, it compares the vector of the query with those of the texts. By words, it ranks the texts with BM25
(Robertson and Zaragoza, 2009). The two rankings are merged by their ranks.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..command_line import UsageError
from ..command_line.extras import require
from ..data.argument_checks import check_count, check_text
from .arguments import MODES, check_candidates
from .layout import Layout, open_table
from .ranking import POOL, Ranking, SearchHit, exact_ranking_of, merged
from .vector_search import vector_search

if TYPE_CHECKING:
    from .reranking import Reranker

# A model in eight bits or another dtype has nearly the same vectors (cosines from 0.99), another model unrelated ones.
LEAST_COSINE = 0.9
# The number of rows in which to look for one with a vector, to compare it.
_COMPARED = 16
_PLACE = re.compile(r",? \S+\.rs:\d+:\d+")
# LanceDB puts a condition behind `WHERE` in a statement of SQL, and ignores all that follows a complete expression:
# another clause, such as `ORDER BY`, and what comes after `;` or `--`. It panics at parameters, such as `?`, and at
# texts that are not in plain quotes, such as `N'text'`.
#
# Quoted strings and names, in which a doubled quote stands for one; and what can end an expression.
_QUOTED = r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`(?:[^`]|``)*`"
_ENDS = r"--|/\*|[;()]"
# Parameters: ?, :name, $1; and texts: N'text', B'text', R'text', $$text$$. A name can contain $, and :: is a cast.
_UNREADABLE = r"\?|(?<!:):(?!:)|(?<![\w$])\$|\b[NBRnbr](?=['\"])"
_TOKENS = re.compile(f"{_QUOTED}|(?P<end>{_ENDS})|(?P<unreadable>{_UNREADABLE})")


class SearchIndex:
    """An index that `sequence-encoder index` has written, open for searches. Threads may share it.

    Args:
        folder: The folder of the index.
        model: The model for the vectors of queries; by default the one that has computed those of the texts.
        device: The device to compute on; by default a GPU if there is one.

    Attributes:
        layout: What is known about the index.
        facts: How the vectors of its texts were computed.
        table: The table of LanceDB.
        vectors: The search among its vectors.

    Raises:
        UsageError: If the folder is not a complete index.
    """

    def __init__(self, folder: str | os.PathLike[str], model: str | None = None, device: str | None = None) -> None:
        require("an index", "lancedb", "pyarrow", extra="search")
        self.layout = Layout.read(Path(folder))
        self.table, self.facts = open_table(Path(folder))
        self.vectors = vector_search(self.table, Path(folder), self.facts)
        self._model, self._device = model, device
        self._loading = threading.Lock()
        self._encode: Callable[[str], Any] | None = None

    def search(
        self,
        query: str,
        limit: int = 10,
        *,
        mode: str = "hybrid",
        where: str | None = None,
        reranker: Reranker | None = None,
        candidates: int = 50,
        vector: Any = None,
    ) -> list[SearchHit]:
        """Find the texts that fit a query best.

        Args:
            query: The query. The index puts the prompt of the model for queries before it, if there is one.
            limit: The number of hits.
            mode: One of `MODES`.
            where: A condition on the columns of the index, as in SQL: "year > 2020 AND topic = 'physics'".
            reranker: A larger model that scores each candidate, and puts them in a new order.
            candidates: The number of texts for the reranker, at least `limit`.
            vector: The vector of the query, if it is known; otherwise the model computes it.

        Returns:
            At most `limit` hits, the best first. A smaller limit returns the first of them.

        Raises:
            ValueError: If an argument is not allowed, or `where` is not a valid condition.
        """
        check_text(query, "query")
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(map(repr, MODES))}, got {mode!r}.")
        for name, value in (("limit", limit), ("candidates", candidates)):
            check_count(value, name)
        if reranker is not None:
            check_candidates(limit, candidates)
        condition = None if where is None else _as_expression(where)
        if mode != "text" and vector is None:
            vector = self.vector(query)
        try:
            found = self._rank(mode, query, vector, candidates if reranker else limit, condition)
        except (RuntimeError, ValueError, OSError) as error:
            if where is None:
                raise
            raise ValueError(
                f"where={where!r} is not a valid condition: {_first_line(error)}{_advice(error)}"
            ) from error
        hits = self._hits(found)
        return hits if reranker is None else reranker.rerank(query, hits)[:limit]

    def vector(self, query: str) -> Any:
        """Return the vector of a query, as `embed` stores it: an array, or the indices and values of a sparse one."""
        with self._loading:
            if self._encode is None:
                self._encode = self._load()
        return self._encode(query)

    def cosine_to(self, encode: Callable[[str], Any]) -> float | None:
        """Return the cosine of two vectors of one text: that in the index, and that of another function.

        Args:
            encode: Returns the vector of a text, as `vector` does.

        Returns:
            The cosine, or None if the index has no text among its first rows, or a vector is 0.
        """
        # A condition on the vectors would read all of them.
        first = self.table.take_offsets(list(range(min(self.layout.rows, _COMPARED)))).to_arrow().to_pylist()
        for row in first:
            if (stored := row[self.vectors.column]) is not None:
                return self.vectors.cosine(stored, encode(row[self.layout.text_column]))
        return None

    def _load(self) -> Callable[[str], Any]:
        name = self._model or self.facts["model"]
        if self._model is None and os.path.isabs(name) and not os.path.isdir(name):
            raise UsageError(
                f"the model of the index is no longer in {name}; pass its new folder as --encoder (model= in Python)."
            )
        # A search for words needs neither torch nor transformers, which take seconds to import.
        from .query_encoding import load_query_encoding

        encoding = load_query_encoding(name, self._device, self.facts, self.layout.query_prompt)
        self._compare(name, encoding.document)
        return encoding.query

    def _compare(self, name: str, encode: Callable[[str], Any]) -> None:
        """Check that a model computes the vector that the index has for a text, or one in the same direction."""
        cosine = self.cosine_to(encode)
        if cosine is not None and cosine < LEAST_COSINE:
            raise UsageError(
                f"{name} is not the model of the index: for a text of the index, its vector has a cosine of "
                f"{cosine:.2f} with that in the index. Pass the right one as --encoder, or make a new index."
            )

    def _rank(self, mode: str, query: str, vector: Any, limit: int, where: str | None) -> Ranking:
        wanted = max(limit, POOL)
        if mode == "text":
            found = self._by_words(query, wanted, where)
        else:
            found = self.vectors.nearest(vector, wanted, self.layout.probes, where)
            if mode == "hybrid":
                found = merged(found, self._by_words(query, wanted, where))
        return found.first(limit)

    def _by_words(self, query: str, limit: int, where: str | None) -> Ranking:
        from lancedb import query as queries

        # Unlike a plain string, which could become another kind of query.
        make: Any = queries.MatchQuery
        request = self.table.search(make(query, self.layout.text_column), query_type="fts")
        return exact_ranking_of(request if where is None else request.where(where), limit, "_score")

    def _hits(self, found: Ranking) -> list[SearchHit]:
        if not len(found.rows):
            return []
        # A row can have thousands of numbers, which nobody reads.
        columns = [name for name in self.table.schema.names if name != self.vectors.column]
        # LanceDB returns rows in the order of the table.
        places, text = np.argsort(np.argsort(found.rows)), self.layout.text_column
        rows = self.table.take_offsets(np.sort(found.rows).tolist()).select(columns).to_arrow().to_pylist()
        ranked = [rows[place] for place in places]
        return [
            SearchHit(row.pop("id"), row.pop(text), float(score), row)
            for row, score in zip(ranked, found.scores, strict=True)
        ]


def _first_line(error: Exception) -> str:
    """Return the first line of an error of LanceDB, without the place in its source."""
    return _PLACE.sub("", str(error).partition("\n")[0])


def _advice(error: Exception) -> str:
    """Return what to do if a condition compares a column of texts with a number."""
    if not re.search(r"of type 'Utf8'|Cannot coerce .*Utf8|Cannot cast string", str(error)):
        return ""
    return (
        ". Put texts in quotes, as in year = '2020'. To compare numbers, index texts of a CSV file that are numbers "
        "with --columns year:int or year:float."
    )


def _as_expression(where: str) -> str:
    """Return a condition as LanceDB has to read it: as one expression, in parentheses.

    Args:
        where: The condition, as in SQL.

    Raises:
        ValueError: If it is empty, or has more than one expression, a comment, a parameter, or a text in other quotes.
    """
    if not where.strip():
        raise ValueError(f"where must be a condition, such as 'year > 2020', got {where!r}.")
    depth = 0
    for token in _TOKENS.finditer(where):
        if token["unreadable"]:
            raise ValueError(
                f"where must be complete, with texts in plain quotes, as in kind = 'a', but {where!r} has {token[0]!r} "
                f"at character {token.start() + 1}, which would start a parameter or another kind of text."
            )
        found = token["end"]
        depth += {"(": 1, ")": -1}.get(found, 0)
        if found not in (None, "(", ")") or depth < 0:
            raise ValueError(
                f"where must be one condition, but {where!r} has {token[0]!r} at character {token.start() + 1}, which "
                "would end it or start a comment. Write a single condition with AND and OR, and put texts in quotes."
            )
    return f"({where})"
