"""The interface of engines, and the engine that computes in this process.

`ray_engine.py` has the engine that computes in the workers of a Ray cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from ...command_line.progress import Progress
from .results import Computation, Counts, Tokens
from .rows import Chunk, CorpusRows
from .threads import read_ahead
from .vectors import Vectors

# Loads the model, and returns the computation and a sentence about it.
Load = Callable[[], tuple[Computation, str]]


@dataclass(frozen=True)
class Description:
    """What is known of a computation once the model is loaded.

    Attributes:
        fields: See `Computation.fields`.
        facts: See `Computation.facts`.
        device_type: The type of the device that computes.
        sentence: How the model computes.
        needs_ranges: Whether vectors are stored in eight bits, so that the ranges of their channels must be known.
    """

    fields: list[pa.Field]
    facts: Mapping[str, Any]
    device_type: str
    sentence: str
    needs_ranges: bool


@dataclass(frozen=True)
class Result:
    """What has been computed for a chunk.

    Attributes:
        chunk: The chunk, without its texts.
        columns: See `Computation.compute`.
        counts: The counts of the chunk.
    """

    chunk: Chunk
    columns: list[pa.Array]
    counts: Counts


@dataclass(frozen=True)
class Work:
    """What an engine computes.

    Attributes:
        rows: The corpus, which is open.
        scratch: The folder that it was opened with.
        wanted: Takes the number of a shard and returns whether to compute it.
        ranges: The ranges of vectors in eight bits.
    """

    rows: CorpusRows
    scratch: Path
    wanted: Callable[[int], bool]
    ranges: np.ndarray | None


class Engine(Protocol):
    """Computes the rows of a corpus somewhere."""

    def describe(self) -> Description:
        """Load the model, and describe what it computes."""

    def find_ranges(self, chunk: Chunk) -> np.ndarray:
        """See `Vectors.find_ranges`."""

    def results(self, work: Work, progress: Any) -> Generator[Result]:
        """Yield the results of chunks, in order. After the last one, `work.rows.count` is the number of rows.

        Args:
            work: What to compute.
            progress: The bar that counts the rows.
        """


@contextmanager
def local_engine(load: Load) -> Iterator[Engine]:
    """Yield the engine that computes in this process."""
    yield LocalEngine(load)


class LocalEngine:
    """Computes in this process.

    Args:
        load: Loads the model.
    """

    def __init__(self, load: Load) -> None:
        self.computation, self.sentence = load()

    def describe(self) -> Description:
        """See `Engine.describe`."""
        return describe(self.computation, self.sentence)

    def find_ranges(self, chunk: Chunk) -> np.ndarray:
        """See `Engine.find_ranges`."""
        return find_ranges(self.computation, chunk)

    def results(self, work: Work, progress: Any) -> Generator[Result]:
        """See `Engine.results`."""
        use_ranges(self.computation, work.ranges)
        tokenized = ((chunk, tokenize(self.computation, chunk)) for chunk in work.rows.chunks(work.wanted))
        ahead: AbstractContextManager[Iterator[tuple[Chunk, Tokens]]] = nullcontext(tokenized)
        if tokenizes_ahead(self.computation.device_type):
            ahead = read_ahead(tokenized)
        with ahead as chunks:
            for chunk, tokens in chunks:
                yield compute(self.computation, chunk, tokens, progress)


def tokenizes_ahead(device_type: str) -> bool:
    """Return whether to tokenize the next rows while these are computed.

    On a CPU, the tokenizer would compete with the model for cores.
    """
    return device_type != "cpu"


def describe(computation: Computation, sentence: str) -> Description:
    """Return the description of a computation.

    Args:
        computation: The computation.
        sentence: How its model computes.
    """
    needs_ranges = isinstance(computation, Vectors) and computation.precision == "int8"
    return Description(computation.fields, computation.facts, computation.device_type, sentence, needs_ranges)


def find_ranges(computation: Computation, chunk: Chunk) -> np.ndarray:
    """See `Vectors.find_ranges`."""
    assert isinstance(computation, Vectors)
    with Progress("", show=False) as silent:
        return computation.find_ranges(chunk, computation.tokenize(chunk.texts), silent)


def use_ranges(computation: Computation, ranges: np.ndarray | None) -> None:
    """Let a computation store its vectors in eight bits, within ranges."""
    if isinstance(computation, Vectors):
        computation.ranges = ranges


def tokenize(computation: Computation, chunk: Chunk) -> Tokens:
    """Return the tokens of the good rows of a chunk."""
    # Tokenizers refuse an empty list.
    return computation.tokenize(chunk.texts) if chunk.good.any() else Tokens({"input_ids": []}, 0)


def compute(computation: Computation, chunk: Chunk, tokens: Tokens, progress: Any) -> Result:
    """Return the result of a chunk.

    Args:
        computation: The computation.
        chunk: The chunk.
        tokens: Its tokens.
        progress: The bar that counts its rows.
    """
    columns = computation.compute(chunk, tokens, progress)
    # The computation has counted the good rows.
    progress.update(len(chunk.good) - tokens.rows)
    unknown = tokens.count_of(computation.tokenizer.unk_token_id)
    counts = Counts(len(chunk.good), tokens.count, tokens.truncated, unknown, chunk.bad)
    return Result(replace(chunk, texts=[]), columns, counts)
