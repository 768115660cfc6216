"""Computes sparse vectors, and the vectors of all tokens, and makes columns of them.

Shapes: N rows of a chunk, G of them with a text, L tokens of a text, D channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from ...command_line import UsageError
from ...data.vector_kinds import DENSE, DOCUMENT, SPARSE, TOKEN
from .arguments import EmbeddingArguments, ModelArguments
from .formats import VECTORS
from .results import Tokens, count_truncated
from .rows import Chunk

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..vectors.text_vectors import TextVectors

# Rows to compute before their vectors are stored in columns. Storing a whole chunk at once would double the memory.
_ROWS = 1024


class Column(NamedTuple):
    """How the vectors of a kind are stored.

    Attributes:
        name: The name of the column.
        kind: Takes the number of channels and the type of numbers, and returns the type of the column.
        array: Takes the vectors of G texts, which of N rows have one, and the type of the column, and returns the
            column.
    """

    name: str
    kind: Callable[[int, pa.DataType], pa.DataType]
    array: Callable[[list[Any], np.ndarray, pa.DataType], pa.Array]


def _dense(vectors: list[np.ndarray], good: np.ndarray, kind: pa.DataType) -> pa.Array:
    rows = np.zeros((len(good), kind.list_size), kind.value_type.to_pandas_dtype())
    if vectors:
        rows[good] = np.stack(vectors)
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), kind.list_size, mask=pa.array(~good))


def _sparse(vectors: list[tuple[np.ndarray, np.ndarray]], good: np.ndarray, kind: pa.DataType) -> pa.Array:
    offsets = _offsets([len(indices) for indices, _ in vectors], good)
    sides = [
        pa.ListArray.from_arrays(offsets, _flat([vector[side] for vector in vectors], kind.field(side).type.value_type))
        for side in (0, 1)
    ]
    return pa.StructArray.from_arrays(sides, fields=list(kind), mask=pa.array(~good))


def _several(vectors: list[np.ndarray], good: np.ndarray, kind: pa.DataType) -> pa.Array:
    offsets = _offsets([len(each) for each in vectors], good)
    flat = _flat([each.ravel() for each in vectors], kind.value_type.value_type)
    rows = pa.FixedSizeListArray.from_arrays(flat, kind.value_type.list_size)
    return pa.ListArray.from_arrays(offsets, rows, mask=pa.array(~good))


def _offsets(lengths: list[int], good: np.ndarray) -> pa.Array:
    """Return where the list of each row starts, and where the last one ends. The list of a bad row is empty."""
    counts = np.zeros(len(good), np.int64)
    counts[good] = lengths
    return pa.array([0, *accumulate(counts.tolist())], pa.int32())


def _flat(parts: list[np.ndarray], kind: pa.DataType) -> pa.Array:
    numbers = kind.to_pandas_dtype()
    flat = np.concatenate([part.astype(numbers) for part in parts]) if parts else np.zeros(0, numbers)
    if not np.isfinite(flat).all():
        raise ValueError("A vector contains numbers that are too large for float16; pass --precision float32.")
    return pa.array(flat)


def _pairs(channels: int, number: pa.DataType) -> pa.DataType:
    return pa.struct([("indices", pa.list_(pa.uint32())), ("values", pa.list_(pa.float32()))])


# Readers of sparse vectors expect indices and values in a struct, and LanceDB multi-vectors in a list.
COLUMNS: dict[str, Column] = {
    DENSE: Column(VECTORS, lambda channels, number: pa.list_(pa.float32(), channels), _dense),
    SPARSE: Column("sparse_embedding", _pairs, _sparse),
    TOKEN: Column("token_embeddings", lambda channels, number: pa.list_(pa.list_(number, channels)), _several),
}


def check_options(kind: type[TextVectors], name: str, options: EmbeddingArguments) -> None:
    """Check that options make sense for the vectors of a folder, before the model is loaded.

    Args:
        kind: What the folder yields.
        name: The name of the model.
        options: The options.

    Raises:
        UsageError: If one of them does not.
    """
    unfit = [
        (options.format == "npy", "--format npy", "an array needs one dense vector per row; use parquet or lance"),
        (options.pooling is not None, f"--pooling {options.pooling}", "its own modules pool the tokens"),
        (
            options.truncate_dim is not None,
            f"--truncate_dim {options.truncate_dim}",
            "only dense vectors can be truncated",
        ),
        (
            options.precision in ("int8", "binary"),
            f"--precision {options.precision}",
            "only dense vectors can be quantized",
        ),
        (
            options.normalize is not None and kind.kinds == (SPARSE,),
            "--normalize",
            "sparse weights are never normalized",
        ),
    ]
    for is_given, option, reason in unfit:
        if is_given:
            words = " and ".join(kind.kinds)
            raise UsageError(f"{option} does not apply to {name}, which computes {words} vectors: {reason}.")


class ListedVectors:
    """The vectors of texts of a `TextVectors`, with the options of `embed`. It reads all texts as documents.

    Args:
        vectors: The model.
        model: How to read texts.
        options: How to compute and store vectors.

    Raises:
        ValueError: If an option does not fit the model.
    """

    def __init__(self, vectors: TextVectors, model: ModelArguments, options: EmbeddingArguments) -> None:
        self.vectors, self.options, self.max_tokens = vectors, options, model.max_tokens
        self.reader = vectors.reader(
            DOCUMENT, prompt=options.prompt, prompt_name=options.prompt_name, max_length=model.max_length
        )
        self.device_type = vectors.model.device.type

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """See `Computation.tokenizer`."""
        return self.reader.tokenizer

    @property
    def fields(self) -> list[pa.Field]:
        """See `Computation.fields`."""
        # A text has a vector for each token, so half of the space matters more than the last digits.
        number = pa.float32() if self.options.precision == "float32" else pa.float16()
        columns = [(COLUMNS[kind], self.vectors.channels(kind)) for kind in self.vectors.kinds]
        return [pa.field(column.name, column.kind(channels, number)) for column, channels in columns]

    @property
    def facts(self) -> Mapping[str, Any]:
        """See `Computation.facts`."""
        return {
            "vectors": list(self.vectors.kinds),
            "dimensions": [self.vectors.channels(kind) for kind in self.vectors.kinds],
            "dtype": str(self.vectors.model.dtype).removeprefix("torch."),
            "normalize": self.options.normalize,
            "prompt": self.reader.prompt,
            "max_length": self.reader.max_length,
        }

    def tokenize(self, texts: list[list[str]]) -> Tokens:
        """See `Computation.tokenize`."""
        encoded = self.reader.tokenize(texts[0])
        truncated = count_truncated(encoded, self.tokenizer, self.reader.max_length, texts)
        return Tokens({"input_ids": encoded["input_ids"]}, truncated)

    def compute(self, chunk: Chunk, tokens: Tokens, progress: Any) -> list[pa.Array]:
        """See `Computation.compute`."""
        parts: list[list[pa.Array]] = [[] for _ in self.fields]
        done = 0

        def name(index: int) -> str:
            return chunk.name(done + index)

        for first in range(0, len(chunk.good), _ROWS):
            good = chunk.good[first : first + _ROWS]
            ids = tokens.ids[done : done + int(good.sum())]
            found = self.vectors.encode(
                ids,
                DOCUMENT,
                normalize=self.options.normalize,
                max_tokens=self.max_tokens,
                name=name,
                progress=progress,
            )
            done += len(ids)
            columns = zip(parts, self.vectors.kinds, self.fields, found, strict=True)
            for arrays, kind, field, vectors in columns:
                arrays.append(COLUMNS[kind].array(vectors, good, field.type))
        return [pa.chunked_array(arrays, field.type) for arrays, field in zip(parts, self.fields, strict=True)]
