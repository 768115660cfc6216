"""Runs a computation over all rows of a corpus. An interrupted run continues after its complete shards.

A run needs no other state than which shards exist. A shard depends only on its rows and the settings, so that a run
that was interrupted writes the same files as one that was not. While rows are computed, those before are written.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...command_line import UsageError
from ...command_line.counts import counted, unknown_in_words
from ...command_line.full_disk import is_disk_full
from ...command_line.progress import Progress
from ...conversion.source import Source
from ...saving.scratch_folders import scratch_folder
from ...saving.whole_folders import write_atomically
from .engine import Engine, Load, Result, Work, local_engine
from .folder import OutputFolder, settings_of
from .formats import FORMATS, Shards, ShardWriter, schema_with
from .processes import is_mine, process_count, rank, wait_until
from .results import Counts
from .rows import CorpusRows
from .threads import Background


@dataclass(frozen=True)
class Run:
    """A command with its options.

    Attributes:
        command: The name of the command.
        parts: The dataclasses with its options.
        model: The model.
        output: The folder to write.
        rows: The rows of the corpus.
        file_format: The format of the results, one of `FORMATS`.
        load: Loads the model, and returns the computation and a sentence about it.
        engine: Where to compute. It takes `load`, and the engine is used within its context.
        option: The option that names the output.
        then: A larger model for some of the rows.
        one_row_an_entity: Whether each row of the corpus has a list of results, each of which is a row of the output.
    """

    command: str
    parts: tuple[Any, ...]
    model: Source
    output: Path
    rows: CorpusRows
    file_format: str
    load: Load
    engine: Callable[[Load], AbstractContextManager[Engine]] = local_engine
    option: str = "output_dir"
    then: Source | None = None
    one_row_an_entity: bool = False

    def __call__(self) -> Counts:
        """Write all shards that do not exist, and return the counts of the whole corpus.

        If other processes still compute shards, the counts are those of the shards that exist.

        Raises:
            UsageError: If the corpus cannot be read, or the folder holds results of other settings.
            FileExistsError: If the folder contains anything else, or another run is writing to it.
            ValueError: If an option does not fit the model, or a result is not finite.
        """
        if process_count() > 1 and FORMATS[self.file_format].one_process:
            raise ValueError(f"--format {self.file_format} is written by one process, got {process_count()}.")
        folder = OutputFolder(self.output, self.command, self.option)
        folder.check(self.rows.corpus.corpus)
        identity = " ".join(each.identity for each in (self.model, self.then) if each is not None)
        settings = settings_of(self.command, self.parts, identity)
        folder.check_settings(settings)
        # Someone may have deleted a shard, to compute it again.
        if (counts := folder.finished()) and self._numbers(counts.rows) <= self._existing():
            if rank() == 0:
                print(f"Already finished. {summary(counts, self.output)}")
            return counts
        started = time.monotonic()
        if is_first := rank() == 0:
            folder.make()
        with folder.lock() if is_first else nullcontext(), self._advice():
            return self._compute(folder, settings, started)

    @contextmanager
    def _advice(self) -> Iterator[None]:
        """Say after Ctrl-C, and if the disk is full, what is kept, and how to continue."""
        try:
            yield
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(f"Interrupted; {self._kept()}. To continue, run the same command again.") from error
        except Exception as error:
            if not is_disk_full(error):
                raise
            raise UsageError(
                f"The disk is full; {self._kept()}. To continue, free some space and run the same command again."
            ) from error

    def _kept(self) -> str:
        existing = self._existing() if self.output.is_dir() else ()
        return f"{counted(len(existing), 'complete shard stays', 'complete shards stay')} in {self.output}"

    def _compute(self, folder: OutputFolder, settings: dict[str, Any], started: float) -> Counts:
        is_first = rank() == 0
        if is_first:
            folder.finished_file.unlink(missing_ok=True)
        else:
            wait_until(folder.settings_file.exists)
        # A wrong column is reported before the model is loaded.
        self.rows.open(folder.state)
        with self.engine(self.load) as engine:
            description = engine.describe()
            fields = description.fields
            if self.one_row_an_entity:
                fields = list(fields[0].type.value_type)
            self._check_names([*(each.name for each in fields), *FORMATS[self.file_format].own_columns])
            settings |= {f"resolved {name}": value for name, value in description.facts.items()}
            folder.check_settings(settings)
            if is_first:
                print(description.sentence, flush=True)
                if done := len(self._existing()):
                    kept = counted(done, "complete shard is", "complete shards are")
                    print(f"The run continues: {kept} in {self.output} already.", flush=True)
                folder.keep_settings(settings)
            facts = {"model": self.model.name, **description.facts}
            ranges = self._ranges(folder, engine) if description.needs_ranges else None
            if ranges is not None:
                facts["ranges"] = ranges.tolist()
            schema = schema_with([*self.rows.schema, *fields], facts)
            shards: Shards = FORMATS[self.file_format](self.output, schema, folder.state)
            written = self._write(shards, schema, engine, ranges, folder.state)
        return self._finish(folder, shards, written, time.monotonic() - started)

    def _check_names(self, written: list[str]) -> None:
        """Check that all columns of the corpus can be written beside those of the results."""
        remedy = "of that name; leave it out, or rename it in the corpus."
        names = self.rows.schema.names
        if same := [name for name in names if name in written]:
            raise UsageError(f"--columns {' '.join(same)}: {self.command} itself writes a column {remedy}")
        if refused := [name for name in names if not FORMATS[self.file_format].can_name(name)]:
            raise UsageError(f"--columns {' '.join(refused)}: a table of LanceDB cannot have a column {remedy}")

    def _ranges(self, folder: OutputFolder, engine: Engine) -> np.ndarray:
        """Return the ranges of vectors in eight bits, which the first process finds in the first texts."""
        if rank() == 0 and not folder.ranges_file.exists():
            # Of a single text, least and greatest values are the same.
            chunk = next((chunk for chunk in self.rows.chunks() if chunk.good.sum() > 1), None)
            if chunk is None:
                raise ValueError("--precision int8 needs at least two texts, to find the ranges of their vectors.")
            write_atomically(folder.ranges_file, [json.dumps(engine.find_ranges(chunk).tolist())])
        wait_until(folder.ranges_file.exists)
        return np.array(json.loads(folder.ranges_file.read_text(encoding="utf-8")), np.float32)

    def _existing(self) -> set[int]:
        """Return the numbers of the shards that exist."""
        return FORMATS[self.file_format].found_in(self.output, self.rows.rows.shard_rows)

    def _numbers(self, rows: int) -> set[int]:
        """Return the numbers of the shards of a number of rows."""
        return set(range(-(-rows // self.rows.rows.shard_rows)))

    def _write(
        self, shards: Shards, schema: pa.Schema, engine: Engine, ranges: np.ndarray | None, state: Path
    ) -> Counts:
        """Write the shards of this process, and return their counts."""
        written, tokens, done = Counts(), 0, self._existing()
        with ExitStack() as stack:
            scratch = stack.enter_context(scratch_folder(state, "incomplete-"))
            output = _Output(shards, schema, scratch, written, self.one_row_an_entity)
            background = stack.enter_context(Background())
            progress = stack.enter_context(_progress(self.rows, done))
            started = time.monotonic()
            work = Work(self.rows, state, lambda shard: is_mine(shard) and shard not in done, ranges)
            results = engine.results(work, progress)
            for result in stack.enter_context(closing(results)):
                background.run(output.write, result)
                tokens += result.counts.tokens
                progress.set_postfix_str(f"{tokens / (time.monotonic() - started):,.0f} tokens/s")
            background.run(output.finish)
        return written

    def _finish(self, folder: OutputFolder, shards: Shards, written: Counts, seconds: float) -> Counts:
        assert self.rows.count is not None
        counts = Counts()
        for number in sorted(self._existing() & self._numbers(self.rows.count)):
            counts.add(shards.counts(number))
        if counts.rows == self.rows.count and folder.finish(counts):
            print(f"{summary(counts, self.output)} {_speed(written, counts, seconds)}")
        return counts


class _Output:
    """Writes the results of chunks, and completes shards."""

    def __init__(
        self, shards: Shards, schema: pa.Schema, scratch: Path, written: Counts, one_row_an_entity: bool
    ) -> None:
        self.shards, self.schema, self.scratch, self.written = shards, schema, scratch, written
        self.one_row_an_entity = one_row_an_entity
        self.writer: ShardWriter | None = None
        self.counts = Counts()

    def write(self, result: Result) -> None:
        """Write the result of a chunk, and complete its shard if it is the last one."""
        chunk = result.chunk
        if self.writer is None:
            self.writer = self.shards.writer(chunk.shard, self.scratch)
        of_rows, results = chunk.columns, result.columns
        if self.one_row_an_entity:
            of_rows, results = _one_row_an_entity(of_rows, *results)
        self.writer.write(pa.Table.from_arrays([*of_rows.columns, *results], schema=self.schema))
        entities = of_rows.num_rows if self.one_row_an_entity else None
        self.counts.add(replace(result.counts, entities=entities))
        if chunk.ends_shard:
            self.finish()

    def finish(self) -> None:
        """Complete the shard that was begun, if there is one."""
        if self.writer is not None:
            self.writer.finish(self.counts)
            self.written.add(self.counts)
            self.writer, self.counts = None, Counts()


def _one_row_an_entity(of_rows: pa.Table, entities: pa.ListArray) -> tuple[pa.Table, list[pa.Array]]:
    """Return the columns of rows and of their entities, with a row for each entity.

    Args:
        of_rows: The columns of N rows.
        entities: The list of entities of each row, or null.
    """
    return of_rows.take(pc.list_parent_indices(entities)), pc.list_flatten(entities).flatten()


def _progress(rows: CorpusRows, done: set[int]) -> Progress:
    """Return the progress that counts the rows of this process, shown only by the first process."""
    size = rows.rows.shard_rows
    total = rows.total() if rank() == 0 else None
    before = sum(map(is_mine, done)) * size
    if total is not None:
        shards = [min(size, total - first) for first in range(0, total, size)]
        before = sum(count for shard, count in enumerate(shards) if is_mine(shard) and shard in done)
        total = sum(count for shard, count in enumerate(shards) if is_mine(shard))
    return Progress("Computing", total, "row", initial=before, show=rank() == 0)


def _speed(written: Counts, counts: Counts, seconds: float) -> str:
    """Return how long this process took for its rows, which are all rows or, after an interruption, some of them."""
    if counts.rows == written.rows:
        return f"That took {seconds:,.1f} seconds."
    done = f"{counted(written.rows, 'row')} of {counted(written.tokens, 'token')}"
    return f"This process has computed {done} in {seconds:,.1f} seconds."


def summary(counts: Counts, output: Path) -> str:
    """Return what a run has written, in sentences."""
    verb = "is" if counts.rows == 1 else "are"
    read = f"{counted(counts.rows, 'row')} of {counted(counts.tokens, 'token')}"
    parts = [f"{read} {verb} in {output}"]
    if counts.entities is not None:
        parts = [f"The entities of {read} are in {output}, {counts.entities:,} in all"]
    if counts.bad:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.bad.items()))
        bad = counted(counts.bad.total(), "bad row has no result", "bad rows have no result")
        parts.append(f"{bad} ({kinds})")
    if counts.truncated:
        parts.append(f"{counted(counts.truncated, 'text was', 'texts were')} truncated to the maximum length")
    if said := unknown_in_words(counts.unknown, counts.tokens):
        parts.append(said)
    return "".join(f"{part}. " for part in parts).strip()
