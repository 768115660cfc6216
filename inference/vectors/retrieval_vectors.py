"""The dense, sparse and multi-vector representations of a text from one pass, as in BGE-M3.

Shapes: N texts, L tokens of a text, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ...data.vector_kinds import DENSE, SPARSE, TOKEN
from ...modeling import SequenceEncoderForRetrieval
from ...modeling.text_encoding.embedding_recipe import EmbeddingRecipe, Normalize
from ...modeling.text_encoding.multi_encoding import weights_by_token
from ...tokenizer.private_copy import lowercased, private_copy
from .text_vectors import TextVectors

ALL_KINDS = (DENSE, SPARSE, TOKEN)


class RetrievalRecipe(NamedTuple):
    """How texts are read."""

    texts: EmbeddingRecipe


class RetrievalVectors(TextVectors):
    """The vectors of a `SequenceEncoderForRetrieval`. See `TextVectors`."""

    kinds = ALL_KINDS
    base_model = False

    recipe: RetrievalRecipe

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
        if not isinstance(model, SequenceEncoderForRetrieval):
            raise ValueError(
                f"{folder} has only dense vectors: its model is a {type(model).__name__}, and not a "
                "SequenceEncoderForRetrieval."
            )
        own = model.recipe_for()
        if DENSE in self.kinds and not own.include_prompt and own.pooling != ("cls",):
            raise ValueError(
                f"{folder} has a pooling with include_prompt=False, which only `encode` and `embed` without --vectors "
                "follow."
            )
        super().__init__(model, tokenizer, folder)
        self.recipe = RetrievalRecipe(own)
        self.texts = self.encoder.embedding_recipe = own
        if own.lowercase:
            self.tokenizer = lowercased(private_copy(tokenizer))

    @classmethod
    def read(cls, folder: Path) -> RetrievalRecipe:
        """See `TextVectors.read`. The model knows how it reads texts."""
        return RetrievalRecipe(EmbeddingRecipe())

    def channels(self, kind: str) -> int:
        """See `TextVectors.channels`."""
        config = self.encoder.config
        sizes = {
            DENSE: self.texts.kept_channels(config.hidden_size),
            SPARSE: config.vocab_size,
            TOKEN: config.multi_vector_size or config.hidden_size,
        }
        return int(sizes[kind])

    @torch.no_grad()
    def compute(self, ids: list[list[int]], task: str, normalize: bool | None = None) -> tuple[list[Any], ...]:
        """See `TextVectors.compute`."""
        recipe = self.encoder.recipe_for(None, normalize)
        found = self.encoder.encode_multi_batch(ids, recipe.pooling)
        dense = found.pooled
        for step in recipe.after:
            dense = step(dense)
        dense = dense[:, : self.channels(DENSE)]
        if normalize:
            # Again, as `encode` does, since fewer channels may be left.
            dense = Normalize()(dense)
        results: dict[str, list[Any]] = {DENSE: list(dense.float().cpu().numpy())}
        if SPARSE in self.kinds:
            results[SPARSE] = [_sparse(*each) for each in zip(ids, found.token_weights, strict=True)]
        if TOKEN in self.kinds:
            results[TOKEN] = [text.float().cpu().numpy() for text in found.token_vectors]
        return tuple(results[kind] for kind in self.kinds)


def retrieval_vectors(kinds: Sequence[str]) -> type[RetrievalVectors]:
    """Return the class for some of the representations, in the order of `ALL_KINDS`.

    Raises:
        ValueError: If a kind does not exist.
    """
    unknown = [kind for kind in kinds if kind not in ALL_KINDS]
    if unknown or not kinds:
        raise ValueError(f"vectors must be some of {', '.join(ALL_KINDS)}, got {', '.join(unknown) or 'none'}.")
    chosen = tuple(kind for kind in ALL_KINDS if kind in kinds)
    return type("RetrievalVectors", (RetrievalVectors,), {"kinds": chosen, "__doc__": RetrievalVectors.__doc__})


def _sparse(ids: list[int], weights: torch.Tensor) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the tokens that have weights in ascending order, and the weights."""
    pairs = sorted((int(token), weight) for token, weight in weights_by_token(ids, weights).items())
    indices, values = zip(*pairs, strict=True) if pairs else ((), ())
    return np.array(indices, np.uint32), np.array(values, np.float32)
