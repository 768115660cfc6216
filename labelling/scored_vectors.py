"""Computes the vectors of texts, and what a classifier says about them, in one pass.

Shapes: N rows of a chunk, G of them with a text, D channels.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import torch

from ..bulk.arguments import EmbeddingArguments, ModelArguments, PredictionArguments
from ..bulk.formats import VECTORS
from ..bulk.models import kind_of, load_encoder
from ..bulk.predictions import Predictions
from ..bulk.results import Computation, Tokens
from ..bulk.rows import Chunk
from ..bulk.vectors import Vectors
from ..command_line import UsageError
from ..conversion.source import Source
from ..data.batching import longest_first
from ..inference.device import choose_device, prepare
from ..runtimes.exported_graph import is_classifier

SCORES = "scores"
# The kinds of problems in which the scores of labels compete.
_ONE_LABEL = (None, "single_label_classification")


class ScoredVectors(Predictions):
    """The predictions of a classifier, and the inputs (D) of its last layer."""

    def __init__(self, classifier: Any, tokenizer: Any, model: ModelArguments) -> None:
        super().__init__(classifier, tokenizer, model, PredictionArguments(scores=True))
        self._inputs: list[torch.Tensor] = []
        self._channels = classifier.classifier.in_features
        classifier.classifier.register_forward_pre_hook(lambda layer, given: self._inputs.append(given[0]))

    @property
    def fields(self) -> list[pa.Field]:
        """See `Computation.fields`."""
        return [*super().fields, pa.field(VECTORS, pa.list_(pa.float32(), self._channels))]

    def compute(self, chunk: Chunk, tokens: Tokens, progress: Any) -> list[pa.Array]:
        """See `Computation.compute`."""
        self._inputs.clear()
        columns = super().compute(chunk, tokens, progress)
        # The batches in the order of `Predictions`.
        batches = longest_first([len(ids) for ids in tokens.ids], self.max_tokens)
        rows = torch.zeros(len(chunk.good), self._channels)
        if self._inputs:
            places = torch.from_numpy(chunk.good).nonzero().squeeze(1)[[index for batch in batches for index in batch]]
            rows[places] = torch.cat(self._inputs).float().cpu()
        flat = pa.array(rows.numpy().ravel())
        return [*columns, pa.FixedSizeListArray.from_arrays(flat, self._channels, mask=pa.array(~chunk.good))]


def load_for_choosing(model: ModelArguments, source: Source) -> tuple[Computation, str]:
    """Load a model for the vectors of texts and, if it is a classifier, its scores.

    Args:
        model: How it reads texts.
        source: The model.

    Returns:
        The model, and a sentence that says how it computes.

    Raises:
        UsageError: If its vectors cannot be compared, or it has no tokenizer.
        ValueError: If it cannot be converted.
    """
    if (kind := kind_of(source)) is not None:
        raise UsageError(f"{model.model} computes {' and '.join(kind.kinds)} vectors, but choose needs dense ones.")
    if not source.is_exported:
        found: Any = source.load()
        if is_classifier(found) and found.config.num_labels > 1 and found.config.problem_type in _ONE_LABEL:
            tokenizer, sentence = source.tokenizer_for(found), prepare(found, choose_device(model.device), "auto")
            return ScoredVectors(found, tokenizer, model), sentence
    encoder, tokenizer, sentence = load_encoder(source, model.device, "auto")
    return Vectors(encoder, tokenizer, model, EmbeddingArguments()), sentence
