"""Runs a command in the workers of a Ray cluster.

Each worker is one of the processes of the run, as if `torchrun` had started it, and shares only the output folder with
the others. Ray chooses the machine of a worker, and starts it again if it dies; it then goes on after the shards that
exist.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..command_line import UsageError
from .arguments import RowArguments
from .formats import FORMATS
from .results import Counts
from .run import summary

# How often Ray starts a worker again. One that dies each time, for lack of memory for example, is given up then.
_RETRIES = 5
_SECONDS = 1.0

Command = Callable[..., Counts]


def run_on_ray(command: Command, parts: tuple[Any, ...], workers: int | None) -> Counts:
    """Run a command in several workers, and return the counts of the whole corpus.

    Args:
        command: `embed` or `predict`.
        parts: Its options. The last ones are those of the rows.
        workers: The number of workers; by default one for each GPU of the cluster, or for each machine without GPUs.

    Raises:
        UsageError: If the cluster is too small, or the command is not possible. The workers are stopped then.
        ValueError, OSError: What the command raises in a worker.
        ray.exceptions.RayError: If a worker has died too often.
    """
    import ray

    rows: RowArguments = parts[-1]
    output = Path(rows.output_dir)
    shards = FORMATS[getattr(parts[2], "format", "parquet")]
    if shards.one_process:
        raise UsageError(f"--format {parts[2].format} is written by one process; leave out --engine ray.")
    with _cluster() as resources:
        count, options = _share(resources, workers)
        # The workers may have other working folders.
        parts = tuple(_with_absolute_paths(part) for part in parts)
        pending = []
        for rank in range(count):
            variables = {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": "0"}
            worker = ray.remote(_work).options(
                **options, max_retries=_RETRIES, runtime_env={"env_vars": variables}, name=f"worker {rank}"
            )
            pending.append(worker.remote(command, parts))
        counts = []
        try:
            with tqdm(desc=f"{count} workers", unit="shard", disable=None) as progress:
                while pending:
                    done, pending = ray.wait(pending, timeout=_SECONDS)
                    counts += ray.get(done)
                    if output.is_dir():
                        progress.update(len(shards.found_in(output, rows.shard_rows)) - progress.n)
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, ValueError | OSError) else error from None
        finally:
            for running in pending:
                ray.cancel(running, force=True)
    # The last worker has counted all shards.
    found = max(counts, key=lambda each: each.rows)
    print(summary(found, output))
    return found


def _work(command: Command, parts: tuple[Any, ...]) -> Counts:
    return command(*parts)


@contextmanager
def _cluster() -> Iterator[dict[str, float]]:
    """Connect to a cluster, or start one on this machine for this block, and yield its resources."""
    import ray

    started = not ray.is_initialized()
    if started:
        # Ray would send statistics about its use.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(logging_level=logging.WARNING)
    try:
        yield {**ray.cluster_resources(), "machines": len(ray.nodes())}
    finally:
        if started:
            ray.shutdown()


def _share(resources: dict[str, float], workers: int | None) -> tuple[int, dict[str, float]]:
    """Return the number of workers, and what each of them gets.

    Raises:
        UsageError: If not all of them can run at once, as workers that wait for each other must.
    """
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    count = workers or gpus or int(resources["machines"])
    if gpus:
        if count > gpus:
            raise UsageError(f"--workers must be at most {gpus}, the GPUs of the cluster, got {count}.")
        return count, {"num_gpus": 1, "num_cpus": min(1, cpus // count)}
    if count > cpus:
        raise UsageError(f"--workers must be at most {cpus}, the CPUs of the cluster, got {count}.")
    # Ray limits the threads of a worker to its CPUs.
    return count, {"num_cpus": cpus // count}


def _with_absolute_paths(part: Any) -> Any:
    """Return options of a command with absolute paths."""
    changed = {
        name: str(Path(value).absolute())
        for name in ("model", "corpus", "output_dir")
        if isinstance(value := getattr(part, name, None), str) and (name == "output_dir" or Path(value).exists())
    }
    return type(part)(**{**vars(part), **changed})
