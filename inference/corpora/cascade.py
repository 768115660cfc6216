"""Labels of a small model, and those of a larger one for the texts that the small one is not sure of.

Shapes: N rows of a chunk, G of them with a text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerBase

from ...command_line import UsageError
from ...command_line.progress import Progress
from .arguments import ModelArguments, PredictionArguments
from .engine import tokenize
from .predictions import MULTI_LABEL, REGRESSION, Predictions
from .results import Tokens
from .rows import Chunk

# Both models write these columns.
_COLUMNS = ("label", "score", "scores")
THEN_BELOW = 0.9


class CascadedPredictions:
    """The labels and scores of texts, with the options of `predict --then`; a `Computation`.

    Args:
        first: The predictions of the small model.
        classifier: The larger model, which may be exported.
        tokenizer: Its tokenizer.
        model: How to read texts.
        options: What to predict.

    Raises:
        UsageError: If a model gives a text several labels or none, or the labels differ.
        ValueError: If an option does not fit the larger model.
    """

    def __init__(
        self,
        first: Predictions,
        classifier: Any,
        tokenizer: PreTrainedTokenizerBase,
        model: ModelArguments,
        options: PredictionArguments,
    ) -> None:
        self.first, self.names = first, (model.model, str(options.then))
        self.below = THEN_BELOW if options.then_below is None else options.then_below
        # The sets and the refusals are those of the small model.
        self.larger = Predictions(classifier, tokenizer, model, replace(options, coverage=None, abstain_below=None))
        for name, each in zip(self.names, (first, self.larger), strict=True):
            if each.classifier.config.problem_type in (REGRESSION, MULTI_LABEL) or len(each.labels) < 2:
                raise UsageError(f"--then needs classifiers with one label per text, which {name} is not.")
        if first.labels != self.larger.labels:
            raise UsageError(
                f"--then {options.then} must have the labels of {model.model}, {', '.join(first.labels)}, in this "
                f"order, got {', '.join(self.larger.labels)}."
            )

    @property
    def device_type(self) -> str:
        """See `Computation.device_type`."""
        return self.first.device_type

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """See `Computation.tokenizer`."""
        return self.first.tokenizer

    @property
    def fields(self) -> list[pa.Field]:
        """See `Computation.fields`."""
        return [*(each for each in self.first.fields if each.name in _COLUMNS), pa.field("answered_by", pa.string())]

    @property
    def facts(self) -> Mapping[str, Any]:
        """See `Computation.facts`."""
        larger = {"model": self.names[1], **self.larger.facts}
        return {**self.first.facts, "then": larger, "then_below": self.below}

    def tokenize(self, texts: list[list[str]]) -> Tokens:
        """See `Computation.tokenize`. The larger model's tokens are known only once the small one has answered."""
        return self.first.tokenize(texts)

    def compute(self, chunk: Chunk, tokens: Tokens, progress: Any) -> list[pa.Array]:
        """See `Computation.compute`."""
        small = _by_name(self.first, chunk, tokens, progress)
        # A text that the small model refuses has no score. Neither has one without tokens.
        scores = pc.fill_null(small["score"], -1.0).to_numpy(zero_copy_only=False)
        asked = chunk.good & (scores < self.below)
        passed_on = asked[chunk.good]
        texts = [[text for text, yes in zip(column, passed_on, strict=True) if yes] for column in chunk.texts]
        rest = replace(chunk, good=asked, texts=texts)
        with Progress("", show=False) as silent:
            large = _by_name(self.larger, rest, tokenize(self.larger, rest), silent)
        mask = pa.array(asked)
        merged = [pc.if_else(mask, large[name], small[name]) for name in small if name in _COLUMNS]
        who = np.where(asked, self.names[1], self.names[0]).astype(object)
        return [*merged, pa.array(who, pa.string(), mask=np.asarray(pc.is_null(merged[0])))]


def _by_name(predictions: Predictions, chunk: Chunk, tokens: Tokens, progress: Any) -> dict[str, pa.Array]:
    """Return the columns of a chunk by their names."""
    columns = predictions.compute(chunk, tokens, progress)
    return {field.name: column for field, column in zip(predictions.fields, columns, strict=True)}
