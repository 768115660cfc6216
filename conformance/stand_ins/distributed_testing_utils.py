"""A stand-in for the helpers that start the ranks of distributed tests, which the archive lacks; CPU only."""

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
    """Do nothing, because all ranks share the CPU."""


def _start_rank_processes(function: Callable[..., None], args: tuple[Any, ...], nprocs: int) -> None:
    """Run `function(rank, *args)` in `nprocs` processes, and raise the error of the first that fails."""
    # The server imports the slow libraries once, so its forks start quickly.
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
    """Return a decorator that runs `function(rank, ...)` on all ranks of a process group."""

    def wrap(function: Callable[..., None]) -> Callable[..., None]:
        def run(*args: Any) -> None:
            store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
            _start_rank_processes(_run_rank, (function, args, store.host, store.port, world_size), world_size)

        return run

    return wrap
