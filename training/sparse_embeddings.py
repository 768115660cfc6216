"""Trains large embedding tables on a CPU by sparse gradients: a step touches only the rows of the tokens in its batch.

AdamW reads and writes all rows in each step, because its momentum moves rows whose gradient is zero, too. Adam without
momentum (β₁ = 0) leaves those rows alone. It moves the others about as far at once as momentum does over several steps.

Shapes: V rows of a table, U different tokens in a batch, E channels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from accelerate.utils import DistributedType
from torch import nn
from transformers import Trainer
from transformers.training_args import OptimizerNames

from ..modeling.cpu.eligibility import is_unhooked
from .optimizer import PartlyAdamW

# Tables with fewer rows take little time.
_LEAST_ROWS = 8192

TrainerClass = TypeVar("TrainerClass", bound=Trainer)


class SparseAdamW(PartlyAdamW):
    """AdamW, and Adam without momentum or weight decay for tables with sparse gradients.

    The tables become what `torch.optim.AdamW` with β₁ = 0 and a weight decay of 0 makes of them. With
    `torch.optim.SparseAdam`, which keeps the moments of rows whose gradient is zero, rare tokens would move less.

    Args:
        adamw: The optimizer in whose place it trains, which has not made a step.
        tables: The tables whose weights are among its parameters.
    """

    _adds, _without = "sparse gradients of embeddings", "set optim='adamw_torch'"
    # A copied optimizer has no tables: `torch.optim.Optimizer` copies only its state and groups.
    tables: Sequence[nn.Embedding] = ()

    def __init__(self, adamw: torch.optim.AdamW, tables: Sequence[nn.Embedding]) -> None:
        ids, groups = {id(table.weight) for table in tables}, []
        for group in adamw.param_groups:
            dense = [weight for weight in group["params"] if id(weight) not in ids]
            sparse = [weight for weight in group["params"] if id(weight) in ids]
            groups.append({**group, "params": dense})
            groups.append({**group, "params": sparse, "weight_decay": 0.0, "adamw": False})
        super().__init__([group for group in groups if group["params"]], lr=adamw.defaults["lr"])
        self.tables = tables

    def _update(self, weight: nn.Parameter, group: dict[str, Any]) -> None:
        assert weight.grad is not None
        # It is dense if there are several processes, or if the model also uses the table in another way.
        gradient = (weight.grad if weight.grad.is_sparse else weight.grad.to_sparse(1)).coalesce()
        rows, values, beta = gradient.indices()[0], gradient.values(), group["betas"][1]
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg_sq"] = torch.zeros_like(weight)
            state["last_step"] = torch.zeros(len(weight))
        state["step"] += 1
        decay = beta ** (state["step"] - state["last_step"][rows])
        squares = state["exp_avg_sq"][rows] * decay[:, None].to(values.dtype)
        squares.addcmul_(values, values, value=1 - beta)
        state["exp_avg_sq"][rows], state["last_step"][rows] = squares, state["step"]
        scale = squares.div_(1 - beta ** float(state["step"])).sqrt_().add_(group["eps"])
        weight.index_add_(0, rows, (values / scale).mul_(-group["lr"]))


class _SparseEmbeddings(Trainer):
    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        chosen = self.optimizer is not None or self.optimizer_cls_and_kwargs is not None
        optimizer: Any = super().create_optimizer(*args, **kwargs)
        # A subclass may have made another one.
        if not chosen and type(optimizer) is torch.optim.AdamW and (tables := self._sparse_tables()):
            self.optimizer = optimizer = SparseAdamW(optimizer, tables)
            accelerator: Any = self.accelerator
            if not isinstance(accelerator.clip_grad_norm_, partial):
                accelerator.clip_grad_norm_ = partial(_clip_values, accelerator.clip_grad_norm_)
        return optimizer

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        # Accelerate wraps the optimizer.
        optimizer: Any = getattr(self.optimizer, "optimizer", self.optimizer)
        # `DistributedDataParallel` exchanges dense gradients.
        is_sparse = isinstance(optimizer, SparseAdamW) and self.accelerator.distributed_type == DistributedType.NO
        tables = optimizer.tables if is_sparse else ()
        with _sparse_gradients(tables):
            loss = super().training_step(*args, **kwargs)
        for table in tables:
            # Otherwise, accumulated gradients would have a row for each token of each batch.
            _coalesce_gradient(table.weight)
        return loss

    def _sparse_tables(self) -> list[nn.Embedding]:
        args, model = self.args, self.accelerator.unwrap_model(self.model)
        if args.device.type != "cpu" or args.torch_compile or args.optim != OptimizerNames.ADAMW_TORCH_FUSED:
            return []
        uses = Counter(id(weight) for module in model.modules() for weight in module._parameters.values())
        return [
            table
            for table in model.modules()
            if type(table) is nn.Embedding
            and table.num_embeddings >= _LEAST_ROWS
            and table.weight.requires_grad
            # Optimizers load their state in the dtype of the weight, which may not hold the number of a step.
            and table.weight.dtype == torch.float32
            and uses[id(table.weight)] == 1
            and table.max_norm is None
            and not table.scale_grad_by_freq
            # A hook may not support sparse gradients.
            and is_unhooked(table)
            and not table.weight._backward_hooks
        ]


def with_sparse_embeddings(trainer_class: type[TrainerClass]) -> type[TrainerClass]:
    """Return a subclass of a `Trainer` that trains large embedding tables on a CPU with `SparseAdamW`.

    Everything else trains as before: on other devices, with another `--optim` than `adamw_torch_fused`, which is the
    default from torch 2.8 on, with an optimizer that the caller chose, and with `torch.compile`. So do tables that are
    frozen, tied, hooked (as with gradient checkpointing), or not in float32. Several processes exchange dense
    gradients, and train the same weights as one.

    Args:
        trainer_class: `Trainer` or a subclass.
    """
    if issubclass(trainer_class, _SparseEmbeddings):
        return trainer_class
    return type(trainer_class.__name__, (_SparseEmbeddings, trainer_class), {})


@contextmanager
def _sparse_gradients(tables: Sequence[nn.Embedding]) -> Iterator[None]:
    """Let tables have sparse gradients, which other optimizers do not support, in this block only."""
    for table in tables:
        table.sparse = True
    try:
        yield
    finally:
        for table in tables:
            table.sparse = False


def _clip_values(clip: Any, parameters: Iterable[torch.Tensor], *args: Any, **kwargs: Any) -> Any:
    """Clip gradients by a function that only knows dense ones, and return what it returns."""
    return clip([_with_dense_gradient(weight) for weight in parameters], *args, **kwargs)


def _with_dense_gradient(weight: torch.Tensor) -> torch.Tensor:
    """Return a weight, or, if its gradient is sparse, a tensor (U, E) whose gradient has the memory of the values."""
    _coalesce_gradient(weight)
    if weight.grad is None or not weight.grad.is_sparse:
        return weight
    stand_in = torch.empty_like(weight.grad.values())
    stand_in.grad = weight.grad.values()
    return stand_in


def _coalesce_gradient(weight: torch.Tensor) -> None:
    if weight.grad is not None and weight.grad.is_sparse:
        weight.grad = weight.grad.coalesce()
