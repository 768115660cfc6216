"""Reranks search results with a larger model: a cross-encoder, or a sentence encoder.

Shapes: N texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..command_line import UsageError
from ..conversion.source import Source
from ..inference.corpora.arguments import ModelArguments, PredictionArguments
from ..inference.corpora.models import load_encoder, load_model
from ..inference.corpora.predictions import Predictions
from ..inference.runtimes.exported_graph import is_classifier
from ..inference.uses import use_of
from ..modeling import SequenceEncoderModel
from .ranking import SearchHit


class Reranker:
    """A model that scores texts for a query. Threads may share it.

    A cross-encoder reads the query together with each text. A sentence encoder compares their vectors by cosine, with
    its prompts for queries and documents.

    Args:
        model: A folder or a Hub id of a model with a head for sequence classification and one label, or of a sentence
            encoder, also exported.
        device: The device to compute on; by default a GPU if there is one.

    Raises:
        UsageError: If the model is neither of them.
    """

    def __init__(self, model: str, device: str | None = None) -> None:
        source = Source(model)
        loaded, tokenizer, _ = load_model(source, device, "auto")
        if is_classifier(loaded):
            if loaded.config.num_labels != 1:
                raise UsageError(f"a reranker must have one label, but {model} has {loaded.config.num_labels}.")
            classifier: Any = loaded
            predictions = Predictions(classifier, tokenizer, ModelArguments(model), PredictionArguments())
            self._scores = lambda query, texts: predictions.scores([[query] * len(texts), list(texts)])[:, 0]
        elif type(loaded).__name__ == SequenceEncoderModel.__name__:
            encoder: Any = load_encoder(source, device, "auto")[0] if source.is_exported else loaded

            def cosines(query: str, texts: Sequence[str]) -> np.ndarray:
                options = {"tokenizer": tokenizer, "normalize_embeddings": True, "show_progress_bar": False}
                vectors = encoder.encode(list(texts), prompt_name="document", **options)
                return np.asarray(vectors @ encoder.encode(query, prompt_name="query", **options))

            self._scores = cosines
        else:
            raise UsageError(
                f"a reranker must be a cross-encoder or a sentence encoder, but {model} is a {type(loaded).__name__}. "
                f"{use_of(loaded)}"
            )

    def scores(self, query: str, texts: Sequence[str]) -> list[float]:
        """Return the score of each of N texts for a query."""
        return [float(score) for score in self._scores(query, texts)] if texts else []

    def rerank(self, query: str, hits: Sequence[SearchHit]) -> list[SearchHit]:
        """Return the hits with their new scores, the best first."""
        scored = zip(hits, self.scores(query, [hit.text for hit in hits]), strict=True)
        return sorted((replace(hit, score=score) for hit, score in scored), key=lambda hit: -hit.score)
