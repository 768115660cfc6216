"""The texts of a run: those that the teacher reads within the time, and the batches of the student."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from torch.nn.utils.rnn import pad_sequence

from ...command_line import UsageError
from ...command_line.progress import Progress
from ...data.padded_inputs import padded_inputs
from ...inference.corpora.results import Computation
from ...inference.corpora.rows import Chunk, CorpusRows
from ...modeling.label_checks import IGNORED
from .teacher_outputs import GROUP, INPUTS, OF_TEACHER, TARGET

# The share of the texts that is held out, and the largest number.
_HELD_OUT, _MOST_HELD_OUT = 0.05, 1000
# The largest number of pairs of a query in a batch.
_PAIRS = 16
# Texts by which the speed of the teacher is measured. The first ones warm it up.
_WARM_UP, _MEASURED = 16, 512
# One text of so many can be part of a joined text.
_PARTS = 4
# 2**64 divided by the golden ratio, for hashes of numbers (Knuth, The Art of Computer Programming, 6.4).
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
# The least and the greatest limit of the tokens of a joined text, and the bytes of a token in UTF-8.
_SHORTEST, LONGEST_JOINED, _BYTES = 64, 256, 4


class SampledRows(CorpusRows):
    """The rows of a corpus, or a share of its shards, spread evenly.

    Attributes:
        share: The share.
        deadline: When to leave out all further shards, by `time.monotonic`: the number of rows may not be known.
        longest_joined: The largest number of tokens of joined texts, each of which is in place of its last part; 0 for
            none. Without them, a student that learns from sentences is less like its teacher for longer texts.
    """

    share, deadline, longest_joined = 1.0, math.inf, 0

    def total(self) -> int | None:
        """See `CorpusRows`."""
        total = super().total()
        return None if total is None else math.ceil(total * self.share)

    def chunks(self, wanted: Callable[[int], bool] = lambda shard: True) -> Iterator[Chunk]:
        """See `CorpusRows`."""
        for chunk in super().chunks(lambda shard: wanted(shard) and self._takes(shard)):
            yield replace(chunk, texts=[_joined(chunk, self.longest_joined)]) if self.longest_joined else chunk

    def _takes(self, shard: int) -> bool:
        in_time = shard == 0 or time.monotonic() < self.deadline
        return in_time and math.ceil((shard + 1) * self.share) > math.ceil(shard * self.share)


def _may_be_joined(numbers: np.ndarray) -> np.ndarray:
    """Return whether the texts of rows, by their numbers, can be parts of joined ones. The others can be held out.

    The numbers are hashed, because every fourth row of a corpus may come from the same source.
    """
    hashed = numbers.astype(np.uint64) * _MULTIPLIER
    # A single product repeats almost the same pattern after 8, 13 or 21 rows.
    hashed = (hashed ^ (hashed >> np.uint64(32))) * _MULTIPLIER
    return hashed < np.uint64(2**64 // _PARTS)


def _joined(chunk: Chunk, longest: int) -> list[str]:
    """Return the texts of a chunk, some of which start with the texts of earlier rows.

    Args:
        chunk: The chunk.
        longest: The largest number of tokens of a joined text.
    """
    texts, rng = list(chunk.texts[0]), np.random.default_rng(chunk.first)
    groups: list[list[int]] = []
    left = 0
    for index in np.flatnonzero(_may_be_joined(chunk.first + np.flatnonzero(chunk.good))).tolist():
        if not texts[index].strip():
            continue
        size = len(texts[index].encode(errors="replace")) + 1
        if size > left:
            groups.append([])
            left = _BYTES * int(rng.integers(min(_SHORTEST, longest), longest, endpoint=True))
        groups[-1].append(index)
        left -= size
    for *before, last in groups:
        texts[last] = " ".join(texts[index] for index in (*before, last))
    return texts


def affordable_share(rows: SampledRows, computation: Computation, seconds: float) -> float:
    """Return the share of the rows, which are open, that the teacher computes in some seconds.

    If the number of rows is not known, it is 1.
    """
    total, chunk = rows.total(), next(rows.chunks(), None)
    if total is None or chunk is None:
        return 1.0
    taken = 0.0
    with Progress("", show=False) as silent:
        for count in (_WARM_UP, _MEASURED):
            texts = [column[:count] for column in chunk.texts]
            part = replace(chunk, texts=texts, good=np.ones(len(texts[0]), bool))
            started = time.perf_counter()
            computation.compute(part, computation.tokenize(part.texts), silent)
            taken = (time.perf_counter() - started) / max(1, len(texts[0]))
    return min(1.0, seconds / (taken * total))


@dataclass(frozen=True)
class LearningTexts:
    """What a student learns from.

    Attributes:
        units: A dataset, of which a batch takes whole items: texts, or the pairs of a query.
        lengths: The number of tokens of each item.
        held_out: The texts or pairs that are held out.
        count: The number of texts or pairs that are not.
    """

    units: Any
    lengths: list[int]
    held_out: Any
    count: int


def read_outputs(folder: Path, cache: Path, seed: int, by_query: bool) -> LearningTexts:
    """Read what the teacher has computed.

    Args:
        folder: The folder of its shards.
        cache: A folder for a copy that is mapped into memory.
        seed: The seed that chooses the texts to hold out.
        by_query: Whether the texts are pairs, of which those of a query stay together.

    Raises:
        UsageError: If there are fewer than two texts, or pairs of two queries.
    """
    from datasets import Dataset

    files = sorted(map(str, folder.glob("shard-*.parquet")))
    rows = Dataset.from_parquet(files, cache_dir=str(cache))
    lengths = np.asarray(pc.fill_null(pc.list_value_length(rows.data.column(INPUTS[0])), 0))
    usable = np.flatnonzero(lengths)
    groups = np.asarray(rows.data.column(GROUP))[usable] if by_query else np.arange(len(usable))
    found = np.unique(groups)
    if len(found) < 2:
        what = "pairs of at least two first texts" if by_query else "at least two texts"
        raise UsageError(f"--corpus must have {what}, because some are held out, got {len(found)}.")
    count = min(_MOST_HELD_OUT, math.ceil(_HELD_OUT * len(found)))
    apart = found if by_query else groups[~_may_be_joined(np.asarray(rows.data.column("id"))[usable])]
    order = np.random.default_rng(seed).permutation(apart if len(apart) >= count else found)
    is_held_out = np.isin(groups, order[:count])
    train, held_out = usable[~is_held_out], usable[is_held_out][:_MOST_HELD_OUT]
    names = [*INPUTS, *([GROUP] if by_query else []), TARGET]
    compared = [*names, *(f"{OF_TEACHER}{name}" for name in INPUTS)]
    rows = rows.select_columns([name for name in compared if name in rows.column_names]).with_format("numpy")
    units: Any = rows.select_columns([name for name in names if name in rows.column_names]).select(train)
    items = lengths[train]
    if by_query:
        units = Queries(units, groups[~is_held_out])
        items = np.array([items[pairs].sum() for pairs in units.rows])
    return LearningTexts(units, items.tolist(), rows.select(held_out), len(train))


def read_vectors(folder: Path, cache: Path, column: str) -> tuple[list[str], np.ndarray]:
    """Return the texts that the teacher has read, in the `column` of its shards, and their vectors (N, D)."""
    from datasets import Dataset

    rows = Dataset.from_parquet(sorted(map(str, folder.glob("shard-*.parquet"))), cache_dir=str(cache))
    vectors = rows.data.column(TARGET)
    usable = np.flatnonzero(np.asarray(pc.is_valid(vectors)))
    found = rows.select(usable).with_format("numpy")
    return list(found.with_format(None)[:][column]), np.stack(found[:][TARGET])


class Queries:
    """A dataset whose items are the pairs of a query, or some of them if there are many.

    Args:
        pairs: A dataset of pairs.
        groups: (N,) the number of the query of each.
    """

    def __init__(self, pairs: Any, groups: np.ndarray) -> None:
        self.pairs = pairs
        order = np.argsort(groups, kind="stable")
        starts = np.flatnonzero(np.diff(groups[order])) + 1
        self.rows = [
            rows[first : first + _PAIRS] for rows in np.split(order, starts) for first in range(0, len(rows), _PAIRS)
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return the pairs of several queries."""
        return list(self.pairs.__getitems__(np.concatenate([self.rows[index] for index in indices]).tolist()))


class Collator:
    """Pads the inputs of texts, and puts the outputs of the teacher beside them.

    Args:
        pad_token_id: The id of padding.
    """

    def __init__(self, pad_token_id: int | None) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the batch of rows."""
        inputs = [{name: row[name] for name in INPUTS if name in row} for row in rows]
        batch = padded_inputs(inputs, self.pad_token_id)
        if GROUP in rows[0]:
            batch["groups"] = torch.tensor([int(row[GROUP]) for row in rows])
        # The tokens of a text are padded; all other outputs of a teacher have the same size.
        batch[TARGET] = pad_sequence([torch.tensor(row[TARGET]) for row in rows], True, IGNORED)
        return batch
