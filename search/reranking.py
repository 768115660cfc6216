"""Reranks search results with a cross-encoder, which reads the query together with each text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..bulk.arguments import ModelArguments, PredictionArguments
from ..bulk.models import load_classifier
from ..bulk.predictions import Predictions
from ..command_line import UsageError
from ..conversion.source import Source
from .hit import SearchHit


class Reranker:
    """A cross-encoder with one score for a query and a text. Threads may share it.

    Args:
        model: A folder or a Hub id of a model with a head for sequence classification, also exported.
        device: The device to compute on; by default a GPU if there is one.

    Raises:
        UsageError: If the model has no such head, or more than one label.
    """

    def __init__(self, model: str, device: str | None = None) -> None:
        classifier, tokenizer, _ = load_classifier(Source(model), device, "auto")
        if classifier.config.num_labels != 1:
            raise UsageError(f"a reranker must have one label, but {model} has {classifier.config.num_labels}.")
        self._predictions = Predictions(classifier, tokenizer, ModelArguments(model), PredictionArguments())

    def scores(self, query: str, texts: Sequence[str]) -> list[float]:
        """Return the score of each text for a query."""
        if not texts:
            return []
        found = self._predictions.scores([[query] * len(texts), list(texts)])
        return [float(score) for score in found[:, 0]]

    def rerank(self, query: str, hits: Sequence[SearchHit]) -> list[SearchHit]:
        """Return the hits with their new scores, the best first."""
        scored = zip(hits, self.scores(query, [hit.text for hit in hits]), strict=True)
        return sorted((replace(hit, score=score) for hit, score in scored), key=lambda hit: -hit.score)
