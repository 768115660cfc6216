"""Computes and quantizes the vectors of texts.

Shapes: N rows of a chunk, G of them with a text, D channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from ...modeling.packing import device_of
from ...tokenizer.token_rows import TokenRows
from .arguments import EmbeddingArguments, ModelArguments
from .formats import VECTORS
from .results import Tokens, count_truncated
from .rows import Chunk

# The kinds of numbers that are stored, by `--precision`; all others store float32.
_STORED = {"int8": np.int8, "binary": np.int8}
_BUCKETS = 255


class Vectors:
    """The vectors of texts, with the options of `embed`.

    Args:
        encoder: The encoder.
        tokenizer: Its tokenizer.
        model: How to read texts.
        options: How to compute and store vectors.

    Raises:
        ValueError: If an option does not fit the model.
    """

    def __init__(
        self,
        encoder: Any,
        tokenizer: PreTrainedTokenizerBase,
        model: ModelArguments,
        options: EmbeddingArguments,
    ) -> None:
        self.prepared = encoder.prepare_encoding(
            tokenizer,
            pooling=options.pooling,
            normalize_embeddings=options.normalize,
            max_length=model.max_length,
            prompt=options.prompt,
            prompt_name=options.prompt_name,
            truncate_dim=options.truncate_dim,
            max_tokens=model.max_tokens,
        )
        self.device_type = device_of(encoder).type
        self.precision = options.precision
        self.ranges: np.ndarray | None = None
        self._dtype = str(getattr(encoder, "dtype", "float32")).removeprefix("torch.")
        self._normalizes = self.prepared.normalize or "Normalize()" in map(str, self.prepared.recipe.after)
        self._computed: tuple[int, np.ndarray] | None = None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """See `Computation.tokenizer`."""
        return self.prepared.tokenizer

    @property
    def fields(self) -> list[pa.Field]:
        """See `Computation.fields`."""
        channels = self.prepared.kept_channels
        if self.precision == "binary":
            channels = -(-channels // 8)
        stored = pa.from_numpy_dtype(_STORED.get(self.precision or "float32", np.float32))
        return [pa.field(VECTORS, pa.list_(stored, channels))]

    @property
    def facts(self) -> Mapping[str, Any]:
        """See `Computation.facts`."""
        prepared = self.prepared
        return {
            "dimensions": prepared.kept_channels,
            "dtype": self._dtype,
            "pooling": list(prepared.recipe.pooling),
            "normalized": self._normalizes,
            "prompt": prepared.prompt,
            "max_length": prepared.max_length,
            "precision": self.precision,
        }

    def tokenize(self, texts: list[list[str]]) -> Tokens:
        """See `Computation.tokenize`."""
        encoded = self.prepared.tokenize(texts[0])
        ids = encoded["input_ids"]
        if isinstance(ids, TokenRows):
            return Tokens({"input_ids": ids}, ids.truncated)
        truncated = count_truncated(encoded, self.tokenizer, self.prepared.max_length, texts)
        return Tokens({"input_ids": ids}, truncated)

    def compute(self, chunk: Chunk, tokens: Tokens, progress: Any) -> list[pa.Array]:
        """See `Computation.compute`."""
        vectors = self._vectors(chunk, tokens, progress)
        if self.precision == "int8":
            assert self.ranges is not None
            vectors = quantize_to_int8(vectors, self.ranges)
        elif self.precision == "binary":
            vectors = quantize_to_bits(vectors)
        missing = np.nan if vectors.dtype == np.float32 else 0
        rows = np.full((len(chunk.good), vectors.shape[1]), missing, vectors.dtype)
        rows[chunk.good] = vectors
        return [pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1], mask=pa.array(~chunk.good))]

    def find_ranges(self, chunk: Chunk, tokens: Tokens, progress: Any) -> np.ndarray:
        """Return the least and the greatest value (2, D) of each channel in a chunk."""
        vectors = self._vectors(chunk, tokens, progress)
        self._computed = chunk.first, vectors
        return np.stack([vectors.min(axis=0), vectors.max(axis=0)])

    def _vectors(self, chunk: Chunk, tokens: Tokens, progress: Any) -> np.ndarray:
        if self._computed is not None and self._computed[0] == chunk.first:
            # The chunk that gave the ranges.
            (_, vectors), self._computed = self._computed, None
            return vectors
        return self.prepared.vectors(tokens.ids, chunk.name, progress).cpu().numpy()


def quantize_to_int8(vectors: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    """Quantize vectors as `quantize_embeddings(precision="int8")` of sentence-transformers.

    Args:
        vectors: (G, D) float32.
        ranges: (2, D) the least and the greatest value of each channel.

    Returns:
        (G, D) int8.
    """
    steps = (ranges[1] - ranges[0]) / _BUCKETS
    steps = np.where(steps == 0, 1, steps)
    buckets = np.clip(np.floor((vectors - ranges[0]) / steps), 0, _BUCKETS)
    return (buckets - 128).astype(np.int8)


def quantize_to_bits(vectors: np.ndarray) -> np.ndarray:
    """Quantize vectors as `quantize_embeddings(precision="binary")` of sentence-transformers, to (G, D / 8) int8."""
    return (np.packbits(vectors > 0, axis=-1) - 128).astype(np.int8)
