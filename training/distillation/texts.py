"""The texts of a run: those that the teacher reads within the time, and the batches of the student."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch

from ...bulk.results import Computation
from ...bulk.rows import Chunk, CorpusRows
from ...command_line import UsageError
from ...command_line.progress import Progress
from ...data.padded_inputs import padded_inputs
from .teacher_outputs import INPUTS, TARGET

# The share of the texts that is held out, and the largest number.
_HELD_OUT, _MOST_HELD_OUT = 0.05, 1000
# Texts by which the speed of the teacher is measured. The first ones warm it up.
_WARM_UP, _MEASURED = 16, 512


class SampledRows(CorpusRows):
    """The rows of a corpus, or a share of its shards, spread evenly.

    Attributes:
        share: The share.
    """

    share = 1.0

    def total(self) -> int | None:
        """See `CorpusRows`."""
        total = super().total()
        return None if total is None else math.ceil(total * self.share)

    def chunks(self, wanted: Callable[[int], bool] = lambda shard: True) -> Iterator[Chunk]:
        """See `CorpusRows`."""
        return super().chunks(lambda shard: wanted(shard) and self._takes(shard))

    def _takes(self, shard: int) -> bool:
        return math.ceil((shard + 1) * self.share) > math.ceil(shard * self.share)


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


def read_outputs(folder: Path, cache: Path, seed: int) -> tuple[Any, Any, np.ndarray]:
    """Read what the teacher has computed.

    Args:
        folder: The folder of its shards.
        cache: A folder for a copy that is mapped into memory.
        seed: The seed that chooses the texts to hold out.

    Returns:
        The rows to train on, those that are held out, and the number of tokens (N,) of the former.

    Raises:
        UsageError: If there are fewer than two texts.
    """
    from datasets import Dataset

    files = sorted(map(str, folder.glob("shard-*.parquet")))
    rows = Dataset.from_parquet(files, cache_dir=str(cache))
    rows = rows.select_columns([name for name in (*INPUTS, TARGET) if name in rows.column_names])
    lengths = np.asarray(pc.fill_null(pc.list_value_length(rows.data.column(INPUTS[0])), 0))
    usable = np.random.default_rng(seed).permutation(np.flatnonzero(lengths))
    if len(usable) < 2:
        raise UsageError(f"--corpus must have at least two texts, one of which is held out, got {len(usable)}.")
    count = min(_MOST_HELD_OUT, math.ceil(_HELD_OUT * len(usable)))
    held_out, train = usable[:count], np.sort(usable[count:])
    rows = rows.with_format("numpy")
    return rows.select(train), rows.select(held_out), lengths[train]


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
        targets = torch.from_numpy(np.stack([row[TARGET] for row in rows]))
        return {**padded_inputs(inputs, self.pad_token_id), TARGET: targets}
