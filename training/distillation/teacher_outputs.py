"""What a teacher computes for each text, which is written to Parquet with the tokens of the text.

Shapes: N rows of a chunk, G of them with a text, L tokens of a text, D channels, C labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ...command_line.progress import Progress
from ...data.batching import longest_first
from ...data.padded_inputs import padded_inputs
from ...inference.corpora.predictions import Predictions
from ...inference.corpora.results import Computation, Tokens
from ...inference.corpora.rows import Chunk
from ...inference.corpora.vectors import Vectors

# The columns of the shards: the inputs of the model, the number of the query in pairs, and the output of the teacher.
# For a student with its own tokenizer, these inputs are the student's, and the teacher's have the prefix `OF_TEACHER`.
INPUTS, GROUP, TARGET, OF_TEACHER = ("input_ids", "token_type_ids"), "group", "target", "teacher_"
_IDS = pa.list_(pa.int32())


class TeacherVectors(Vectors):
    """The vectors (D,) of texts, and their tokens.

    Attributes:
        student: The computation of the student, if the student has its own tokenizer.
    """

    student: TeacherVectors | None = None

    @property
    def fields(self) -> list[pa.Field]:
        """See `Computation.fields`."""
        (vectors,) = super().fields
        prefixes = ("",) if self.student is None else ("", OF_TEACHER)
        return [*(pa.field(f"{prefix}{INPUTS[0]}", _IDS) for prefix in prefixes), vectors.with_name(TARGET)]

    def compute(self, chunk: Chunk, tokens: Tokens, progress: Any) -> list[pa.Array]:
        """See `Computation.compute`."""
        return [
            *(_lists(each.ids, chunk.good) for each in _read(self, chunk, tokens)),
            *super().compute(chunk, tokens, progress),
        ]


class TeacherLogits(Predictions):
    """The logits (C,) of texts or of pairs of texts, and their tokens.

    Attributes:
        student: See `TeacherVectors`.
    """

    student: TeacherLogits | None = None

    @property
    def fields(self) -> list[pa.Field]:
        """See `Computation.fields`."""
        inputs = [pa.field(name, _IDS) for name in self._inputs]
        if self.student is not None:
            inputs = [pa.field(name, _IDS) for name in self.student._inputs]
            inputs += [pa.field(f"{OF_TEACHER}{name}", _IDS) for name in self._inputs]
        return [*inputs, pa.field(GROUP, pa.int64()), pa.field(TARGET, self._kind)]

    @property
    def _inputs(self) -> list[str]:
        return [name for name in INPUTS if name in self.tokenizer.model_input_names]

    @property
    def _kind(self) -> pa.DataType:
        return pa.list_(pa.float32(), len(self.labels))

    def compute(self, chunk: Chunk, tokens: Tokens, progress: Any) -> list[pa.Array]:
        """See `Computation.compute`."""
        read = _read(self, chunk, tokens)
        inputs = [_lists(each.inputs[name], chunk.good) for each in read for name in INPUTS if name in each.inputs]
        groups = np.zeros(len(chunk.good), np.int64)
        groups[chunk.good] = [_number(text) for text in chunk.texts[0]] if chunk.texts else 0
        return [*inputs, pa.array(groups), self._logits(chunk, tokens, progress)]

    def _logits(self, chunk: Chunk, tokens: Tokens, progress: Any) -> pa.Array:
        found = np.zeros((len(chunk.good), len(self.labels)), np.float32)
        found[chunk.good] = self.outputs(tokens, progress)[0].cpu().numpy()
        return pa.FixedSizeListArray.from_arrays(pa.array(found.ravel()), found.shape[1], mask=pa.array(~chunk.good))


class TeacherTags(TeacherLogits):
    """The logits (L, C) of the tokens of texts, and the tokens."""

    @property
    def _kind(self) -> pa.DataType:
        return pa.list_(super()._kind)

    @torch.no_grad()
    def _logits(self, chunk: Chunk, tokens: Tokens, progress: Any) -> pa.Array:
        lengths, names = [len(ids) for ids in tokens.ids], list(tokens.inputs)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        found = np.zeros((int(offsets[-1]), len(self.labels)), np.float32)
        for batch in longest_first(lengths, self.max_tokens, progress):
            given = [{name: tokens.inputs[name][index] for name in names} for index in batch]
            inputs = padded_inputs(given, self.classifier.config.pad_token_id)
            logits = self.classifier(**{name: each.to(self.classifier.device) for name, each in inputs.items()}).logits
            for index, own in zip(batch, logits.float().cpu().numpy(), strict=True):
                found[offsets[index] : offsets[index + 1]] = own[: lengths[index]]
        values = pa.FixedSizeListArray.from_arrays(pa.array(found.ravel()), len(self.labels))
        return pa.ListArray.from_arrays(_offsets(lengths, chunk.good), values, mask=pa.array(~chunk.good))


def _read(teacher: TeacherVectors | TeacherLogits, chunk: Chunk, tokens: Tokens) -> list[Tokens]:
    """Return the tokens to write: those of the teacher, after those of a student with its own tokenizer."""
    return [tokens] if teacher.student is None else [teacher.student.tokenize(chunk.texts), tokens]


def tokens_of(rows: Mapping[str, Any], count: int, prefix: str = "") -> Tokens:
    """Return the tokens of the first texts, from columns with a prefix."""
    return Tokens({name: rows[f"{prefix}{name}"][:count] for name in INPUTS if f"{prefix}{name}" in rows}, 0)


def outputs_of(computation: Computation, tokens: Tokens) -> np.ndarray:
    """Return the outputs of a model for texts: (N, D), or (L of all texts, C) for the tokens of a tagger."""
    chunk = Chunk(0, 0, True, pa.table({}), np.ones(tokens.rows, bool), [])
    with Progress("", show=False) as silent:
        column: Any = computation.compute(chunk, tokens, silent)[-1]
    channels = (column.type.value_type if pa.types.is_list(column.type) else column.type).list_size
    while isinstance(column, pa.ListArray | pa.FixedSizeListArray):
        column = column.flatten()
    return column.to_numpy().reshape(-1, channels)


def _number(text: str) -> int:
    """Return a number that equal texts share."""
    return int.from_bytes(blake2b(text.encode(), digest_size=7).digest(), "little")


def _lists(values: Sequence[Sequence[int]], good: np.ndarray) -> pa.ListArray:
    """Return a column (N,) of lists of integers, null for bad rows, of which there are no `values` (G,)."""
    lengths = [len(each) for each in values]
    flat = np.fromiter((value for each in values for value in each), np.int32, sum(lengths))
    return pa.ListArray.from_arrays(_offsets(lengths, good), pa.array(flat), mask=pa.array(~good))


def _offsets(lengths: Sequence[int], good: np.ndarray) -> pa.Array:
    """Return where the lists of rows (N,) start and end, given the lengths (G,) of those that are good."""
    every = np.zeros(len(good), np.int32)
    every[good] = lengths
    return pa.array(np.concatenate([[0], every.cumsum()]).astype(np.int32))
