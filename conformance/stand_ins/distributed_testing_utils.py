"""In place of the helpers that start the ranks of distributed tests, which the archive leaves out: on the CPU alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

PRELOAD = ["torch.distributed.fsdp", "torch.distributed.tensor", "transformers.trainer_utils", "test_training"]


def _get_distributed_backend() -> str:
    return "gloo"


def _get_distributed_device_type() -> str:
    return "cpu"


def _get_rank_device(rank: int) -> torch.device:
    return torch.device("cpu")


def _set_rank_device(rank: int) -> None:
    """A rank of the CPU has no device of its own."""


def _start_rank_processes(function: Callable[..., None], args: tuple[Any, ...], nprocs: int) -> None:
    """Runs function(rank, *args) in as many processes; raises the error of the first that fails."""
    # Forks of a server that has imported what takes long, and run nothing of it, are there at once.
    mp.set_forkserver_preload(PRELOAD)
    mp.start_processes(function, args, nprocs, start_method="forkserver")


def _run_rank(rank: int, function: Callable[..., None], args: tuple[Any, ...], host: str, port: int, size: int) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size))
    os.environ.update(MASTER_ADDR=host, MASTER_PORT=str(port))
    store = dist.TCPStore(host, port, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    try:
        function(rank, *args)
    finally:
        dist.destroy_process_group()


def run_distributed(world_size: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Makes of function(rank, ...) a function that runs it on all ranks of a process group."""

    def wrap(function: Callable[..., None]) -> Callable[..., None]:
        def run(*args: Any) -> None:
            store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
            _start_rank_processes(_run_rank, (function, args, store.host, store.port, world_size), world_size)

        return run

    return wrap
