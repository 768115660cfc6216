"""Finds the training examples that are nearest to a text in an index, for explanations."""

from __future__ import annotations

from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..command_line import UsageError
from ..data.vector_kinds import DENSE
from ..evaluation.explanation.neighbours import Neighbour
from .search_index import LEAST_COSINE, SearchIndex


class IndexedExamples:
    """The training examples in an index.

    Args:
        folder: The folder of the index.
        label_column: The column with their labels.

    Raises:
        UsageError: If the folder is not an index of dense vectors with that column.
    """

    def __init__(self, folder: str, label_column: str) -> None:
        self.folder, self.label_column = folder, label_column
        self.index = SearchIndex(folder)
        if (kinds := self.index.facts.get("vectors", [DENSE])) != [DENSE]:
            raise UsageError(f"--index {folder} must have dense vectors, got {' and '.join(kinds)} vectors.")
        if label_column not in (columns := self.index.table.schema.names):
            raise UsageError(
                f"--index {folder} has no column {label_column} (--label_column); it has {', '.join(columns)}. Pass "
                f"--columns {label_column} to `sequence-encoder index`."
            )

    def nearest(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, texts: list[str], count: int
    ) -> list[list[Neighbour]]:
        """Return the nearest examples of each text, the nearest first; see `nearest_examples`.

        Args:
            model: The model whose encoder has computed the vectors of the index.
            tokenizer: Its tokenizer.
            texts: The texts.
            count: The number of examples for each.

        Raises:
            UsageError: If another model has computed them.
        """
        facts, encoder = self.index.facts, model.base_model
        options = {"prompt": facts["prompt"], "max_length": facts["max_length"], "show_progress_bar": False}
        pooling = facts["pooling"][0] if len(facts["pooling"]) == 1 else None
        encode = partial(
            encoder.encode,
            tokenizer=tokenizer,
            pooling=pooling,
            normalize_embeddings=facts["normalized"],
            truncate_dim=facts["dimensions"],
            **options,
        )
        same_size = encoder.recipe_for(pooling).channels(encoder.config.hidden_size) >= facts["dimensions"]
        cosine = self.index.cosine_to(encode) if same_size else 0.0
        if cosine is not None and cosine < LEAST_COSINE:
            raise UsageError(
                f"--index {self.folder} has vectors of {facts['model']}, which are not those of the model that is "
                "explained; make an index with that model."
            )
        return [
            [
                Neighbour(hit.text, str(hit.fields[self.label_column]), hit.score)
                for hit in self.index.search(text, count, mode="vector", vector=encode(text))
            ]
            for text in texts
        ]
