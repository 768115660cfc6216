"""What a teacher computes for each text, which is written to Parquet with the tokens of the text.

Shapes: N rows of a chunk, G of them with a text, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ...bulk.results import Tokens
from ...bulk.rows import Chunk
from ...bulk.vectors import Vectors

# The columns of the shards. The last one is the output of the teacher.
INPUTS, TARGET = ("input_ids", "token_type_ids"), "target"


class TeacherVectors(Vectors):
    """The vectors of texts, and their tokens."""

    @property
    def fields(self) -> list[pa.Field]:
        """See `Computation.fields`."""
        (vectors,) = super().fields
        return [pa.field(INPUTS[0], pa.list_(pa.int32())), vectors.with_name(TARGET)]

    def compute(self, chunk: Chunk, tokens: Tokens, progress: Any) -> list[pa.Array]:
        """See `Computation.compute`."""
        return [_lists(tokens.ids, chunk.good), *super().compute(chunk, tokens, progress)]


def _lists(values: Sequence[Sequence[int]], good: np.ndarray) -> pa.ListArray:
    """Return a column (N,) of lists of integers, null for bad rows, of which there are no `values` (G,)."""
    lengths = np.zeros(len(good), np.int32)
    lengths[good] = [len(each) for each in values]
    offsets = np.concatenate([[0], lengths.cumsum(dtype=np.int32)]).astype(np.int32)
    flat = np.fromiter((value for each in values for value in each), np.int32, int(offsets[-1]))
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat), mask=pa.array(~good))
