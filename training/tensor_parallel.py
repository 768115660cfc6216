"""Training with tensor parallelism: each matrix is divided among processes, which all see the same batch.

Transformers divides the model when it loads it, and its `Trainer` then trains it, but writes no checkpoints to go on
from. Those written here are as one process would write them, and load in any number of processes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor, Replicate
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from ..command_line import UsageError
from .checkpoints import checkpoint_at


def tensor_parallel_size() -> int:
    """Among how many processes the launcher of Accelerate was told to divide a model; 1 by default.

    Raises:
        UsageError: if the processes there are cannot be divided so.
    """
    size = int(os.environ.get("PARALLELISM_CONFIG_TP_SIZE", "1"))
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if size < 1 or world % size:
        raise UsageError(f"parallelism_config_tp_size must divide the number of processes {world}, got {size}.")
    return size


def divided(model: PreTrainedModel, size: int, folder: Path) -> PreTrainedModel:
    """The same model, divided among `size` processes.

    Args:
        model: with the same weights in all processes.
        size: of the group that shares it.
        folder: where the first process keeps it meanwhile.

    Raises:
        UsageError: if this version of transformers cannot divide it.
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
    """Whole weights, as they are in a checkpoint, to the parts of this process."""
    for name, weight in model.state_dict().items():
        if isinstance(weight, DTensor) and name in state_dict:
            state_dict[name] = like(state_dict[name], weight)


def like(whole: torch.Tensor, divided_tensor: torch.Tensor) -> torch.Tensor:
    """A whole tensor, that all processes have, divided as another one is."""
    if not isinstance(divided_tensor, DTensor) or isinstance(whole, DTensor):
        return whole
    mesh = divided_tensor.device_mesh
    replicated = DTensor.from_local(whole.to(divided_tensor.device), mesh, [Replicate()] * mesh.ndim, run_check=False)
    return replicated.redistribute(placements=divided_tensor.placements)


class TensorParallelCheckpoints(TrainerCallback):
    """Adds to checkpoints the state of the optimizer and of the schedule, whole, and divides it when it is loaded.

    Give the `Trainer` `save_only_model=True`, without which it refuses such models.
    """

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Gathers the state in all processes, and writes it in one."""
        optimizer = kwargs["optimizer"].state_dict()
        optimizer["state"] = {
            place: {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in of.items()}
            for place, of in optimizer["state"].items()
        }
        if args.should_save:
            folder = checkpoint_at(args, state)
            torch.save(optimizer, folder / OPTIMIZER_NAME)
            torch.save(kwargs["lr_scheduler"].state_dict(), folder / SCHEDULER_NAME)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Divides the state that was loaded, if any was."""
        for weight, of in kwargs["optimizer"].state.items():
            for name, value in of.items():
                if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                    of[name] = like(value, weight)
