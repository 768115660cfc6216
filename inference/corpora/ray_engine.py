"""Computes on a Ray cluster: Ray Data streams the chunks of a corpus through workers that hold the model.

One task reads the corpus on the machine of the command, and the command writes the results, in order, as if it had
computed them. Workers share nothing but the model. Ray Data chooses their machines, gives the next chunk to a worker
that is free, stops reading while chunks pile up, and gives the chunks of a worker that has died to another.
"""

from __future__ import annotations

import gc
import logging
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib import import_module
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa

from ...command_line import UsageError
from ...command_line.progress import Progress
from ...command_line.quiet import quiet_libraries
from .engine import (
    Description,
    Engine,
    Load,
    Result,
    Work,
    compute,
    describe,
    find_ranges,
    tokenize,
    tokenizes_ahead,
    use_ranges,
)
from .messages import ERRORS, packed, unpacked
from .processes import process_count
from .ray_workers import Share, share_of
from .results import Computation
from .rows import Chunk

# The number of workers that may die on the same chunk. Ray alone would retry forever.
_ATTEMPTS = 5
# The levels of Ray Data's loggers during a run. The second one would warn that Ray's progress bar is disabled; the run
# has its own.
_LEVELS = {"ray.data": logging.WARNING, "ray.data._internal.progress": logging.ERROR}


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
        yield RayEngine(load, share_of(ray.nodes(), workers, device))
    finally:
        if started:
            ray.shutdown()


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
        found: np.ndarray = self._in_a_worker(_find_ranges, self.load, packed(chunk))
        return found

    def results(self, work: Work, progress: Any) -> Generator[Result]:
        """See `Engine.results`.

        Raises:
            ray.exceptions.RayError: If Ray or a worker fails with an error that is not one of users.
        """
        import ray

        with ExitStack() as stack:
            stack.enter_context(_quiet())
            attempts = stack.enter_context(_attempts())
            batches = self._dataset(work, attempts).iter_batches(batch_size=None, batch_format="pyarrow")
            failure = None
            try:
                for batch in batches:
                    for item in unpacked(batch):
                        if isinstance(item, ERRORS):
                            raise item
                        if isinstance(item, Result):
                            progress.update(len(item.chunk.good))
                            yield item
                        elif isinstance(item, int):
                            work.rows.count = item
            except ray.exceptions.RayError as error:
                # The tracebacks hold references to the workers.
                failure = error.with_traceback(None)
                failure.__context__ = None
            finally:
                del batches
            if failure is not None:
                # So do reference cycles in Ray.
                gc.collect()
                raise failure

    def _dataset(self, work: Work, attempts: Any) -> Any:
        """Return the dataset of the messages from the workers."""
        import ray
        from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy

        calls = 2 if tokenizes_ahead(self._device_type) else 1
        pool = ActorPoolStrategy(
            size=self.share.workers,
            # The next chunk is there when this one is done.
            max_tasks_in_flight_per_actor=calls + 1,
            max_concurrent_calls_per_actor=calls,
            enable_true_multi_threading=True,
        )
        read: Callable[..., Iterator[pa.Table]] = _read
        context = DataContext.get_current().copy()
        context.execution_options.preserve_order = True
        # Messages are not joined, so that each goes to a worker that is free.
        context.target_max_block_size = 1
        context.enable_progress_bars = context.print_on_execution_start = False
        with DataContext.current(context):
            messages = ray.data.from_items([0]).map_batches(
                read,
                fn_kwargs={"work": replace(work, rows=work.rows.closed(), scratch=work.scratch.absolute())},
                compute=TaskPoolStrategy(size=1),
                # Workers may take all CPUs.
                num_cpus=0,
                label_selector={"ray.io/node-id": ray.get_runtime_context().get_node_id()},
            )
            return messages.map_batches(
                _Worker,
                fn_constructor_kwargs={"load": self.load, "ranges": work.ranges, "attempts": attempts},
                batch_size=1,
                batch_format="pyarrow",
                compute=pool,
                num_cpus=self.share.cpus,
                num_gpus=self.share.gpus,
            )

    def _in_a_worker(self, function: Callable[..., Any], *arguments: Any) -> Any:
        import ray

        task = ray.remote(num_cpus=self.share.cpus, num_gpus=self.share.gpus)(function)
        try:
            return ray.get(task.remote(*arguments))
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, ERRORS) else error from None


class _Worker:
    """Computes chunks with a model, one after the other. If a GPU computes, it tokenizes the next one meanwhile."""

    def __init__(self, load: Load, ranges: np.ndarray | None, attempts: Any) -> None:
        self.load, self.ranges, self.attempts = load, ranges, attempts
        self._computation: Computation | None = None
        self._loading, self._computing = Lock(), Lock()

    def __call__(self, message: pa.Table) -> pa.Table:
        (item,) = unpacked(message)
        if not isinstance(item, Chunk):
            return message
        try:
            return packed(self._result(item))
        except ERRORS as error:
            return packed(error)

    def _result(self, chunk: Chunk) -> Result:
        import ray

        if ray.get(self.attempts.add.remote(chunk.first)) > _ATTEMPTS:
            raise UsageError(
                f"{_ATTEMPTS} workers died while they computed the rows of the corpus from {chunk.first}, or the next "
                "ones. If memory was short, choose fewer --workers or a smaller --max_tokens."
            )
        with self._loading:
            if self._computation is None:
                self._computation, _ = _loaded(self.load)
                use_ranges(self._computation, self.ranges)
        tokens = tokenize(self._computation, chunk)
        with self._computing, Progress("", show=False) as silent:
            return compute(self._computation, chunk, tokens, silent)


def _read(_: Any, work: Work) -> Iterator[pa.Table]:
    """Yield the chunks of a corpus, and then the number of its rows."""
    try:
        work.rows.open(work.scratch)
        for chunk in work.rows.chunks(work.wanted):
            yield packed(chunk)
        assert work.rows.count is not None
        yield packed(work.rows.count)
    except ERRORS as error:
        yield packed(error)


def _loaded(load: Load) -> tuple[Computation, str]:
    # Ray would print the bars of all workers.
    with quiet_libraries():
        return load()


def _describe(load: Load) -> Description:
    return describe(*_loaded(load))


def _find_ranges(load: Load, message: pa.Table) -> np.ndarray:
    (chunk,) = unpacked(message)
    assert isinstance(chunk, Chunk)
    return find_ranges(_loaded(load)[0], chunk)


@contextmanager
def _attempts() -> Iterator[Any]:
    """Yield an actor that counts how often workers have started to compute each chunk, and outlives them."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # A class of a function travels by its code, so that its process does not import this package.
    class Attempts:
        def __init__(self) -> None:
            self.counts: Counter[int] = Counter()

        def add(self, first: int) -> int:
            self.counts[first] += 1
            return self.counts[first]

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor: Any = ray.remote(Attempts)
    attempts = actor.options(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here).remote()
    try:
        yield attempts
    finally:
        ray.kill(attempts)


@contextmanager
def _quiet() -> Iterator[None]:
    """Let Ray Data log only warnings within this block."""
    # It sets its own levels when it is imported.
    import_module("ray.data")
    before = {name: logging.getLogger(name).level for name in _LEVELS}
    for name, level in _LEVELS.items():
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
