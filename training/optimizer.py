"""Optimizers for `Trainer` that update some weights by AdamW and the rest by another rule, such as Muon."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from ..inference.bfloat16 import faster_in_bfloat16
from ..modeling.convolution import Convolution
from .tensor_parallel import like

# Coefficients of the quintic Newton-Schulz iteration, tuned for a steep slope at zero (Jordan et al., 2024).
_COEFFICIENTS, _ITERATIONS = (3.4445, -4.7750, 2.0315), 5


def orthogonalize(matrix: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Approximate UVᵀ for the matrix USVᵀ, computed in a dtype: all but tiny singular values become 0.6 to 1.2."""
    a, b, c = _COEFFICIENTS
    transposed = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if transposed else matrix).to(dtype)
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if transposed else x).to(matrix.dtype)


class PartlyAdamW(torch.optim.AdamW):
    """Base class of optimizers with AdamW, except for the groups of weights with `adamw=False`."""

    # Parts of an error message: what this optimizer adds to AdamW, and how to resume a training without it.
    _adds: ClassVar[str]
    _without: ClassVar[str]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state that an optimizer of this kind has written.

        Raises:
            ValueError: If another optimizer has written it.
        """
        own, given = (
            # Earlier versions wrote "muon".
            [group.get("adamw", not group.get("muon", False)) for group in groups]
            for groups in (self.param_groups, state_dict["param_groups"])
        )
        if own != given:
            raise ValueError(
                f"The checkpoint is from a training without {self._adds} or with other trainable weights. Resume it as "
                f"it was started; if it had no {self._adds}, {self._without}."
            )
        super().load_state_dict(state_dict)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all weights that have a gradient, and return the loss of `closure`, if given."""
        groups = self.param_groups
        # AdamW must see only its own groups.
        self.param_groups = [group for group in groups if group.get("adamw", True)]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if not group.get("adamw", True):
                for weight in group["params"]:
                    if weight.grad is not None:
                        self._update(weight, group)
        return loss

    def _update(self, weight: nn.Parameter, group: dict[str, Any]) -> None:
        """Update a weight that has a gradient and is not for AdamW."""
        raise NotImplementedError


class MuonWithAdamW(PartlyAdamW):
    """Muon for matrices that map hidden states, AdamW for embeddings, norms, biases and outputs.

    Muon orthogonalises its momentum, so an update moves all directions equally, including rare ones (Jordan et al.,
    2024). Its updates are scaled to the size of AdamW's (Liu et al., 2025). It differs from `torch.optim.Muon` only in
    the dtype of the orthogonalisation. `torch.optim.Muon` always uses bfloat16, and on a CPU that emulates bfloat16,
    this takes longer than the rest of a training step. If weights are sharded (FSDP2, tensor parallelism), each process
    orthogonalises whole matrices. The matrices of a convolution, one for each neighbour, are orthogonalised one by one.

    Args:
        model: An encoder with or without a head.
        lr: The learning rate of both.
        betas: The betas of AdamW.
        eps: The epsilon of AdamW.
        weight_decay: The decoupled weight decay of both. Norms and biases have none.
        momentum: The momentum of Muon, with Nesterov's look-ahead.
        dtype: The dtype of the orthogonalisation. Defaults to the faster of bfloat16 and float32.

    Raises:
        ValueError: If a number is out of range.
    """

    _adds, _without = "Muon", "use AdamW"

    def __init__(
        self,
        model: PreTrainedModel,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}.")
        tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
        vocabulary = {id(table.weight) for table in (*tables, model.get_output_embeddings()) if table is not None}
        blocks = {id(each.dense.weight): each.width for each in model.modules() if isinstance(each, Convolution)}
        groups: dict[tuple[bool, bool, int], list[nn.Parameter]] = {}
        for weight in model.parameters():
            if weight.requires_grad:
                # An output matrix is not hidden-to-hidden: one of its sides is, for example, the number of classes.
                hidden = weight.ndim == 2 and min(weight.shape) >= model.config.hidden_size
                muon = hidden and id(weight) not in vocabulary
                groups.setdefault((muon, weight.ndim > 1, blocks.get(id(weight), 1)), []).append(weight)
        # With tensor parallelism, only some weights are sharded, and no fused kernel accepts both kinds together.
        together = not any(isinstance(weight, DTensor) for weight in model.parameters())
        super().__init__(
            [
                {
                    "params": weights,
                    "adamw": not muon,
                    "blocks": parts,
                    "momentum": momentum,
                    "weight_decay": weight_decay if decays else 0.0,
                }
                for (muon, decays, parts), weights in groups.items()
            ],
            lr=lr,
            betas=betas,
            eps=eps,
            fused=together,
            foreach=None if together else False,
        )
        # `GradScaler` must unscale the gradients before the step. AdamW's fused kernel would do it only for its own.
        self._step_supports_amp_scaling = False
        self.dtype = dtype or (torch.bfloat16 if faster_in_bfloat16() else torch.float32)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, except what depends on the model and on how the weights are sharded in this run."""
        kept = ("fused", "foreach", "blocks", "adamw")
        own = [{name: group[name] for name in kept} for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, values in zip(self.param_groups, own, strict=True):
            group.update(values)

    def _update(self, weight: nn.Parameter, group: dict[str, Any]) -> None:
        gradient = weight.grad
        assert gradient is not None
        state = self.state[weight]
        if not state:
            # AdamW expects a step count in every state that it loads.
            state["step"] = torch.zeros(())
            state["momentum_buffer"] = torch.zeros_like(weight)
        state["step"] += 1
        past = state["momentum_buffer"]
        past.lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(past, group["momentum"])
        whole = ahead.full_tensor() if isinstance(ahead, DTensor) else ahead
        blocks = whole.chunk(group["blocks"], dim=1)
        updates = [orthogonalize(block, self.dtype) for block in blocks]
        # `cat` would copy the only block of most matrices.
        update = like(torch.cat(updates, dim=1) if len(updates) > 1 else updates[0], ahead)
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(update, alpha=-0.2 * group["lr"] * math.sqrt(max(blocks[0].shape)))
