"""A vector for each token of a text, for late interaction (ColBERT, Khattab and Zaharia, 2020).

Shapes: L tokens of a text, T tokens of all texts of a batch, D channels.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ...data.vector_kinds import QUERY, TOKEN
from ...modeling.text_encoding.embedding_recipe import Normalize
from .recipes import TokenRecipe, read_token_recipe
from .text_vectors import TextVectors


class TokenVectors(TextVectors):
    """The vectors of a `MultiVectorEncoder` of sentence-transformers. See `TextVectors`."""

    kinds = (TOKEN,)
    base_model = True

    recipe: TokenRecipe

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
        super().__init__(model, tokenizer, folder)
        found: dict[str, Any] = {word: tokenizer.convert_tokens_to_ids(word) for word in self.recipe.left_out}
        unknown = tokenizer.unk_token_id
        # A word that the tokenizer does not know would leave out all unknown tokens.
        ids = [index for word, index in found.items() if index != unknown or word == tokenizer.unk_token]
        self._left_out = np.array(ids, dtype=np.int64)

    @classmethod
    def read(cls, folder: Path) -> TokenRecipe:
        """See `TextVectors.read`."""
        return read_token_recipe(folder)

    @classmethod
    def has_unit_length(cls, folder: Path) -> bool:
        """See `TextVectors.has_unit_length`. LanceDB compares cosines, and the model products."""
        return cls.read(folder).steps[-1:] == (Normalize(),)

    def channels(self, kind: str) -> int:
        """See `TextVectors.channels`."""
        size: int = self.encoder.config.hidden_size
        return next((step.weight.shape[0] for step in reversed(self.recipe.steps) if hasattr(step, "weight")), size)

    def max_length(self, task: str) -> int | None:
        """See `TextVectors.max_length`."""
        given, expansion, config = self.recipe.lengths[task], self.recipe.expansion, self.encoder.config
        if task == QUERY and expansion is not None:
            if expansion.cuts:
                return expansion.length
            given = None if given is None else max(given, expansion.length)
        if given is None:
            return super().max_length(task)
        # The length in the folder replaces the tokenizer's, but the model's positions still limit it.
        return min(given, config.max_position_embeddings) if config.position_embedding == "learned" else given

    def expand(self, ids: list[list[int]], task: str) -> list[list[int]]:
        """See `TextVectors.expand`."""
        expansion = self.recipe.expansion
        if task != QUERY or expansion is None:
            return ids
        token: Any = self.tokenizer.mask_token_id
        if expansion.token is not None:
            token = self.tokenizer.convert_tokens_to_ids(expansion.token)
        elif token is None:
            token = self.tokenizer.eos_token_id
        return [text + [token] * (expansion.length - len(text)) for text in ids]

    @torch.no_grad()
    def compute(self, ids: list[list[int]], task: str, normalize: bool | None = None) -> tuple[list[Any], ...]:
        """See `TextVectors.compute`."""
        vectors = self.states(ids).float()
        steps = self.recipe.steps
        if normalize is not None:
            steps = (*(step for step in steps if not isinstance(step, Normalize)), *([Normalize()] * normalize))
        for step in steps:
            vectors = step(vectors)
        rows = vectors.cpu().numpy()
        places = list(itertools.accumulate(len(text) for text in ids))[:-1]
        parts = np.split(rows, places)
        if task not in self.recipe.left_out_of or not self._left_out.size:
            return (parts,)
        return ([part[~np.isin(text, self._left_out)] for text, part in zip(ids, parts, strict=True)],)
