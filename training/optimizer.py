"""Muon for the matrices inside an encoder and AdamW for the rest, as the one optimizer that `Trainer` takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from .hardware import faster_in_bfloat16

# Of the quintic that Newton-Schulz iterates, tuned to be steep at zero (Jordan et al., 2024).
_COEFFICIENTS, _ITERATIONS = (3.4445, -4.7750, 2.0315), 5


def orthogonalize(matrix: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """UVᵀ of the matrix USVᵀ, nearly: all but tiny singular values become 0.6 to 1.2. Computed in `dtype`."""
    a, b, c = _COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).to(dtype)
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum: an update moves all directions as much, the rare ones too (Jordan et al., 2024).

    Updates are as large as AdamW's (Liu et al., 2025). It is `torch.optim.Muon` but for the type that it computes in:
    that is always bfloat16 there, which on a CPU that emulates it takes longer than the rest of a training step.

    Args:
        matrices: 2-D parameters, each on one device.
        lr: learning rate.
        weight_decay: decoupled.
        momentum: share of the past; the newest gradient is looked ahead to (Nesterov).
        dtype: what to orthogonalise in; by default the faster one of bfloat16 and float32.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.dtype = dtype or (torch.bfloat16 if faster_in_bfloat16() else torch.float32)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Moves the matrices that have a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                past = state.setdefault("momentum_buffer", torch.zeros_like(weight))
                past.lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonalize(weight.grad.lerp(past, group["momentum"]), self.dtype)
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-0.2 * group["lr"] * math.sqrt(max(weight.shape)))


class MuonWithAdamW(torch.optim.Optimizer):
    """Trains matrices that map hidden states with Muon, and embeddings, norms, biases and outputs with AdamW.

    Args:
        model: an encoder with or without a head.
        learning_rate: of both.
        betas: AdamW's.
        weight_decay: of both, decoupled.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        learning_rate: float,
        betas: tuple[float, float] = (0.9, 0.98),
        weight_decay: float = 0.01,
    ) -> None:
        tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
        vocabulary = {id(table.weight) for table in (*tables, model.get_output_embeddings()) if table is not None}
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for weight in model.parameters():
            # An output has a side that is no hidden state, such as the number of classes.
            hidden = weight.ndim == 2 and min(weight.shape) >= model.config.hidden_size
            (matrices if hidden and id(weight) not in vocabulary else others).append(weight)
        muon = Muon(matrices, lr=learning_rate, weight_decay=weight_decay)
        adamw = torch.optim.AdamW(others, lr=learning_rate, betas=betas, weight_decay=weight_decay, fused=True)
        self.parts: tuple[torch.optim.Optimizer, ...] = (muon, adamw)
        super().__init__([group for part in self.parts for group in part.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Moves all weights; returns the loss of `closure`, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The state of Muon and of AdamW."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        # Loading replaces the groups, and a scheduler is to move those that are used.
        self.param_groups = [group for part in self.parts for group in part.param_groups]
