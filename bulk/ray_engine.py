"""Computes on a Ray cluster: Ray Data streams the chunks of a corpus through workers that hold the model.

One task reads the corpus, and this process writes the results, in order, as if it had computed them. Workers share
nothing but the model. Ray Data chooses their machines, gives the next chunk to a worker that is free, waits with
reading while chunks pile up, and computes the chunks of a worker that has died on another.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from ..command_line import UsageError
from ..command_line.progress_bars import hide_progress_bars
from .engine import (
    Description,
    Engine,
    Load,
    Result,
    compute,
    describe,
    find_ranges,
    tokenize,
    tokenizes_ahead,
    use_ranges,
)
from .processes import process_count
from .results import Computation
from .rows import Chunk, CorpusRows

# How often a chunk may end its worker. Ray would try for ever, for example if memory never suffices.
_ATTEMPTS = 5
# The errors of users, which are passed on in place of a result, without the stacks of Ray.
_ERRORS = (ValueError, OSError)
_ITEM = "item"


@contextmanager
def ray_engine(load: Load, workers: int | None, device: str | None) -> Iterator[Engine]:
    """Connect to a Ray cluster, or start one on this machine, and yield the engine that computes there.

    Args:
        load: Loads the model.
        workers: The number of workers; by default one for each GPU of the cluster, or for each machine without GPUs.
        device: The device that the user asked for.

    Raises:
        UsageError: If the cluster is too small, or if this process is one of several.
    """
    import ray

    if process_count() > 1:
        raise UsageError("--engine ray starts the workers itself; run the command without a launcher.")
    started = not ray.is_initialized()
    if started:
        # Ray would send statistics about its use.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(logging_level=logging.WARNING)
    try:
        yield RayEngine(load, _share(ray.cluster_resources(), len(ray.nodes()), workers, device))
    finally:
        if started:
            ray.shutdown()


@dataclass(frozen=True)
class Share:
    """The number of workers, and what each of them gets."""

    workers: int
    cpus: int
    gpus: int


class RayEngine:
    """Computes in the workers of a Ray cluster.

    Args:
        load: Loads the model in a worker.
        share: The workers.
    """

    def __init__(self, load: Load, share: Share) -> None:
        self.load, self.share = load, share
        self._device_type = "cpu"

    def describe(self) -> Description:
        """See `Engine.describe`. A worker loads the model, since another machine may compute differently."""
        description: Description = self._in_a_worker(_describe, self.load)
        self._device_type = description.device_type
        return description

    def find_ranges(self, chunk: Chunk) -> np.ndarray:
        """See `Engine.find_ranges`."""
        found: np.ndarray = self._in_a_worker(_find_ranges, self.load, chunk)
        return found

    def results(
        self,
        rows: CorpusRows,
        scratch: Path,
        wanted: Callable[[int], bool],
        ranges: np.ndarray | None,
        progress: Any,
    ) -> Generator[Result]:
        """See `Engine.results`."""
        import ray
        from ray.data import ActorPoolStrategy, TaskPoolStrategy

        attempts = ray.remote(num_cpus=0, max_restarts=-1)(_Attempts).remote()
        calls = 2 if tokenizes_ahead(self._device_type) else 1
        pool = ActorPoolStrategy(
            size=self.share.workers,
            # The next chunk is there when this one is done.
            max_tasks_in_flight_per_actor=calls + 1,
            max_concurrent_calls_per_actor=calls,
            enable_true_multi_threading=True,
        )
        read: Callable[..., Iterator[pa.Table]] = _read
        with _data_context():
            dataset = ray.data.from_items([0]).map_batches(
                read,
                fn_kwargs={"rows": rows.closed(), "scratch": scratch.absolute(), "wanted": wanted},
                compute=TaskPoolStrategy(size=1),
                # Workers may take all CPUs.
                num_cpus=0,
            )
            dataset = dataset.map_batches(
                _Worker,
                fn_constructor_kwargs={"load": self.load, "ranges": ranges, "attempts": attempts},
                batch_size=1,
                batch_format="pyarrow",
                compute=pool,
                num_cpus=self.share.cpus,
                num_gpus=self.share.gpus,
            )
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            for item in _unpacked(batch):
                if isinstance(item, _ERRORS):
                    raise item
                if isinstance(item, Result):
                    progress.update(len(item.chunk.good))
                    yield item
                else:
                    rows.count = item

    def _in_a_worker(self, function: Callable[..., Any], *arguments: Any) -> Any:
        import ray

        task = ray.remote(num_cpus=self.share.cpus, num_gpus=self.share.gpus)(function)
        try:
            return ray.get(task.remote(*arguments))
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, _ERRORS) else error from None


class _Worker:
    """Computes chunks with a model, one after the other. If a GPU computes, it tokenizes the next one meanwhile."""

    def __init__(self, load: Load, ranges: np.ndarray | None, attempts: Any) -> None:
        self.load, self.ranges, self.attempts = load, ranges, attempts
        self._computation: Computation | None = None
        self._loading, self._computing = Lock(), Lock()

    def __call__(self, batch: pa.Table) -> pa.Table:
        (item,) = _unpacked(batch)
        if isinstance(item, Chunk):
            try:
                item = self._result(item)
            except _ERRORS as error:
                item = error
        return _packed(item)

    def _result(self, chunk: Chunk) -> Result:
        import ray

        if ray.get(self.attempts.add.remote(chunk.first)) > _ATTEMPTS:
            raise UsageError(
                f"{_ATTEMPTS} workers died while they computed the rows of the corpus from {chunk.first}. If memory "
                "was short, choose fewer --workers or a smaller --max_tokens."
            )
        with self._loading:
            if self._computation is None:
                self._computation, _ = _loaded(self.load)
                use_ranges(self._computation, self.ranges)
        tokens = tokenize(self._computation, chunk)
        with self._computing, tqdm(disable=True) as silent:
            return compute(self._computation, chunk, tokens, silent)


class _Attempts:
    """Counts how often workers have started to compute each chunk, and outlives them."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()

    def add(self, first: int) -> int:
        self.counts[first] += 1
        return self.counts[first]


def _read(_: Any, rows: CorpusRows, scratch: Path, wanted: Callable[[int], bool]) -> Iterator[pa.Table]:
    """Yield the chunks of a corpus, and then the number of its rows."""
    try:
        rows.open(scratch)
        for chunk in rows.chunks(wanted):
            yield _packed(chunk)
        yield _packed(rows.count)
    except _ERRORS as error:
        yield _packed(error)


def _loaded(load: Load) -> tuple[Computation, str]:
    # Ray would print the bars of all workers.
    with hide_progress_bars():
        return load()


def _describe(load: Load) -> Description:
    return describe(*_loaded(load))


def _find_ranges(load: Load, chunk: Chunk) -> np.ndarray:
    return find_ranges(_loaded(load)[0], chunk)


@contextmanager
def _data_context() -> Iterator[None]:
    """Let datasets that are made in this block keep the order, and neither join chunks nor report by themselves."""
    from ray.data import DataContext

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # It warns that there is no bar; that of the run is there.
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    context = DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    context.target_max_block_size = 1
    context.enable_progress_bars = context.print_on_execution_start = False
    with DataContext.current(context):
        yield


def _packed(item: Any) -> pa.Table:
    """Return a table with a single row, so that Ray never divides or changes what it carries."""
    return pa.table({_ITEM: pa.array([pickle.dumps(item, pickle.HIGHEST_PROTOCOL)], pa.large_binary())})


def _unpacked(table: pa.Table) -> Iterator[Any]:
    for value in table.column(_ITEM):
        yield pickle.loads(value.as_buffer())


def _share(available: dict[str, float], machines: int, workers: int | None, device: str | None) -> Share:
    """Return the workers for the resources of a cluster.

    Raises:
        UsageError: If the cluster has too little for them.
    """
    gpus, cpus = int(available.get("GPU", 0)), int(available.get("CPU", 0))
    if gpus and (device is None or device.startswith("cuda")):
        count, most, what = workers or gpus, gpus, "GPUs"
        share = Share(count, cpus=0, gpus=1)
    else:
        count, most, what = workers or machines, cpus, "CPUs"
        # Ray limits the threads of a worker to its CPUs.
        share = Share(count, cpus=cpus // count, gpus=0)
    if count > most:
        raise UsageError(f"--workers must be at most {most}, the {what} of the cluster, got {count}.")
    return share


def with_absolute_paths(part: Any) -> Any:
    """Return options of a command with absolute paths, since workers may have other working folders."""
    changed = {
        name: str(Path(value).absolute())
        for name in ("model", "corpus")
        if isinstance(value := getattr(part, name, None), str) and Path(value).exists()
    }
    return type(part)(**{**vars(part), **changed})
