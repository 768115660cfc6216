"""Muon for the matrices inside an encoder and AdamW for the rest, as the one optimizer that `Trainer` takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


class MuonWithAdamW(torch.optim.Optimizer):
    """Trains matrices that map hidden states with Muon, and embeddings, norms, biases and outputs with AdamW.

    Muon (Jordan et al., 2024) orthogonalises the momentum of a matrix, so that an update moves all directions as
    much, the rare ones too. Its steps are scaled to the size of AdamW's (Liu et al., 2025): one learning rate is good
    for both. Needs torch 2.9, and all of a matrix on one device.

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
        muon = torch.optim.Muon(matrices, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
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
