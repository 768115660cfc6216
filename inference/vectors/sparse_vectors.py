"""Sparse vectors of texts (SPLADE, Formal et al., 2021): weights of the vocabulary, nearly all of them 0.

Shapes: N texts, T tokens of all texts of a batch, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ...data.vector_kinds import SPARSE
from ...modeling import SequenceEncoderForMaskedLM
from .recipes import SparseRecipe, read_sparse_recipe
from .text_vectors import TextVectors

# Logits of a vocabulary to compute at once, 64 MB in float32. The logits of a whole batch could take gigabytes.
_LOGITS = 2**24


class SparseVectors(TextVectors):
    """The vectors of a `SparseEncoder` of sentence-transformers with `SpladePooling`. See `TextVectors`."""

    kinds = (SPARSE,)
    base_model = False

    recipe: SparseRecipe

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
        if not isinstance(model, SequenceEncoderForMaskedLM):
            raise ValueError(
                f"{folder} has the modules of a sparse encoder, which needs a head for masked language modelling, and "
                f"its model is a {type(model).__name__}."
            )
        super().__init__(model, tokenizer, folder)

    @classmethod
    def read(cls, folder: Path) -> SparseRecipe:
        """See `TextVectors.read`."""
        return read_sparse_recipe(folder)

    def channels(self, kind: str) -> int:
        """See `TextVectors.channels`."""
        size: int = self.encoder.config.vocab_size
        return size

    @torch.no_grad()
    def compute(self, ids: list[list[int]], task: str, normalize: bool | None = None) -> tuple[list[Any], ...]:
        """See `TextVectors.compute`. A vector is the indices and the values of the weights that are not 0."""
        lengths = [len(text) for text in ids]
        parts = self.states(ids).split(lengths)
        vectors: list[Any] = []
        first = 0
        most = max(1, _LOGITS // self.channels(SPARSE))
        while first < len(ids):
            stop = first + 1
            while stop < len(ids) and sum(lengths[first : stop + 1]) <= most:
                stop += 1
            if lengths[first] > most:
                pieces = torch.cat([self._pooled(piece, [len(piece)]) for piece in parts[first].split(most)])
                pooled = (pieces.amax(dim=0) if self.recipe.pooling == "max" else pieces.sum(dim=0))[None]
            else:
                pooled = self._pooled(torch.cat(parts[first:stop]), lengths[first:stop])
            vectors += [_nonzero(row) for row in self._largest(pooled).cpu().numpy()]
            first = stop
        return (vectors,)

    def _pooled(self, states: torch.Tensor, lengths: list[int]) -> torch.Tensor:
        """Return the weights (N, V) of texts or parts of texts, in float32."""
        logits = self.model.decoder(self.model.head(states))
        parts = logits.split(lengths)
        if self.recipe.pooling == "max":
            # The transformation never decreases, so that it can follow the maximum.
            largest = [part.amax(dim=0) if len(part) else logits.new_zeros(logits.shape[1]) for part in parts]
            return self._transformed(torch.stack(largest))
        return torch.stack([self._transformed(part).sum(dim=0) for part in parts])

    def _largest(self, weights: torch.Tensor) -> torch.Tensor:
        """Return the weights (N, V) without those that are not kept."""
        most = self.recipe.most
        if most is not None and most < weights.shape[1]:
            kept = weights.topk(most, dim=1)
            weights = torch.zeros_like(weights).scatter_(1, kept.indices, kept.values)
        return weights

    def _transformed(self, logits: torch.Tensor) -> torch.Tensor:
        weights = logits.float().relu_()
        for _ in range(self.recipe.logarithms):
            weights = weights.log1p_()
        return weights


def _nonzero(weights: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    indices = np.flatnonzero(weights)
    return indices.astype(np.uint32), weights[indices]
