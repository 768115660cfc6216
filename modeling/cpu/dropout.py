"""Dropout with fast random masks on a CPU."""

from typing import Any

import torch
from torch import nn

from .dropout_masks import draw_kept, drop
from .eligibility import is_eager_on_cpu


class _DropoutOnCPU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_states: torch.Tensor, p: float) -> torch.Tensor:
        kept, ctx.factor = draw_kept(hidden_states.shape, p)
        ctx.save_for_backward(kept)
        return drop(hidden_states, kept, ctx.factor)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (kept,) = ctx.saved_tensors
        return drop(gradient, kept, ctx.factor), None


class Dropout(nn.Dropout):
    """Dropout (Srivastava et al., 2014), several times faster than `torch.nn.Dropout` when training on a CPU."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Apply dropout to a tensor of any shape."""
        if self.training and 0.0 < self.p < 1.0 and not self.inplace and is_eager_on_cpu(hidden_states):
            return _DropoutOnCPU.apply(hidden_states, self.p)
        return super().forward(hidden_states)
