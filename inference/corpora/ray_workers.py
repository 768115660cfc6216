"""Divides a Ray cluster among workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...command_line import UsageError
from ...data.corpus_files import DOCUMENTATION, find_files


@dataclass(frozen=True)
class Share:
    """The number of workers, and the CPUs and GPUs that each of them gets."""

    workers: int
    cpus: int
    gpus: int


def share_of(machines: Sequence[Mapping[str, Any]], workers: int | None, device: str | None) -> Share:
    """Return the workers for the machines of a cluster.

    Args:
        machines: The results of `ray.nodes()`.
        workers: The number of workers that the user asked for.
        device: The device that the user asked for.

    Raises:
        UsageError: If the cluster has too little for them.
    """
    alive = [machine["Resources"] for machine in machines if machine["Alive"]]
    gpus, cpus = ([int(each.get(kind, 0)) for each in alive] for kind in ("GPU", "CPU"))
    if sum(gpus) and (device is None or device.startswith("cuda")):
        count = workers or sum(gpus)
        _check(count, sum(gpus), "GPUs")
        return Share(count, cpus=0, gpus=1)
    # A machine without CPUs only manages the cluster.
    count = workers or max(1, sum(each > 0 for each in cpus))
    _check(count, sum(cpus), "CPUs")
    # The most CPUs for each with which all have a place. Ray limits the threads of a worker to its CPUs.
    most = next(each for each in range(max(cpus), 0, -1) if sum(found // each for found in cpus) >= count)
    return Share(count, cpus=most, gpus=0)


def _check(count: int, most: int, what: str) -> None:
    if count > most:
        raise UsageError(f"--workers must be at most {most}, the {what} of the cluster, got {count}.")


def with_absolute_paths(part: Any) -> Any:
    """Return the options with absolute paths of models and corpora, since workers may have other working folders."""
    models = {name: getattr(part, name, None) for name in ("model", "then")}
    changed = {name: str(Path(model).absolute()) for name, model in models.items() if model and Path(model).is_dir()}
    corpus = getattr(part, "corpus", None)
    # A pattern is not the name of a file.
    if corpus not in (None, DOCUMENTATION) and find_files(corpus, "corpus") is not None:
        changed["corpus"] = str(Path(corpus).absolute())
    return type(part)(**{**vars(part), **changed})
