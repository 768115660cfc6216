"""Tensor parallelism: each matrix is sharded over processes, which all see the same batch.

transformers shards the model when it loads it. `Trainer` can train it, but cannot write checkpoints to resume from. The
checkpoints written here are the same as those of a single process, and load in any number of processes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor, Replicate
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from ..command_line import UsageError
from .checkpoints import checkpoint_at


def tensor_parallel_size() -> int:
    """Return the tensor parallel size from the configuration of Accelerate's launcher. Defaults to 1.

    Raises:
        UsageError: If the size does not divide the number of processes.
    """
    size = int(os.environ.get("PARALLELISM_CONFIG_TP_SIZE", "1"))
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if size < 1 or world % size:
        raise UsageError(f"parallelism_config_tp_size must divide the number of processes {world}, got {size}.")
    return size


def divided(model: PreTrainedModel, size: int, folder: Path) -> PreTrainedModel:
    """Return the same model, sharded over `size` processes, which all have its weights.

    The first process saves the model temporarily in a folder.

    Raises:
        UsageError: If this version of transformers does not support it.
    """
    try:
        from transformers.distributed.configuration_utils import DistributedConfig

        distributed = DistributedConfig(tp_size=size)
    except (ImportError, TypeError) as error:
        raise UsageError("tensor parallelism needs a newer version of transformers, such as 5.24.") from error
    if torch.distributed.get_rank() == 0:
        model.save_pretrained(folder)
    torch.distributed.barrier()
    loaded = type(model).from_pretrained(folder, distributed_config=distributed)
    loaded.register_load_state_dict_pre_hook(_divide_loaded)
    return loaded.train()


def _divide_loaded(model: Any, state_dict: dict[str, torch.Tensor], *args: Any) -> None:
    """Shard the whole weights of a checkpoint for this process."""
    for name, weight in model.state_dict().items():
        if isinstance(weight, DTensor) and name in state_dict:
            state_dict[name] = like(state_dict[name], weight)


def like(whole: torch.Tensor, divided_tensor: torch.Tensor) -> torch.Tensor:
    """Shard a tensor that all processes have in the same way as another tensor."""
    if not isinstance(divided_tensor, DTensor) or isinstance(whole, DTensor):
        return whole
    mesh = divided_tensor.device_mesh
    replicated = DTensor.from_local(whole.to(divided_tensor.device), mesh, [Replicate()] * mesh.ndim, run_check=False)
    return replicated.redistribute(placements=divided_tensor.placements)


class TensorParallelCheckpoints(TrainerCallback):
    """A callback that adds the unsharded optimizer and scheduler states to checkpoints, and shards them on loading.

    Pass `save_only_model=True` to the `Trainer`, which otherwise refuses sharded models.
    """

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Gather the state in all processes, and write it in one."""
        optimizer = kwargs["optimizer"].state_dict()
        optimizer["state"] = {
            place: {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in of.items()}
            for place, of in optimizer["state"].items()
        }
        if args.should_save:
            folder = checkpoint_at(args, state)
            torch.save(optimizer, folder / OPTIMIZER_NAME)
            torch.save(kwargs["lr_scheduler"].state_dict(), folder / SCHEDULER_NAME)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Shard the loaded state, if there is one."""
        for weight, of in kwargs["optimizer"].state.items():
            for name, value in of.items():
                if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                    of[name] = like(value, weight)
