"""The result of a search."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


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
