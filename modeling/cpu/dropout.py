"""Dropout whose random numbers do not take longer than the layers: on a CPU torch draws them one by one."""

from typing import Any

import torch
from torch import nn

from .eligibility import is_eager_on_cpu

# A place is dropped by 16 random bits; torch draws four of them at once.
_RANDOM_VALUES = 1 << 16


def draw_dropped(shape: torch.Size, p: float) -> tuple[torch.Tensor, float]:
    """Which places to drop, a bool tensor of a shape, and what to multiply the others by.

    The numbers are those of torch's generator, so `torch.manual_seed` and activation checkpointing hold. `p` is rounded
    to a multiple of 2^-16, and the factor is that of the rounded probability.
    """
    threshold = min(round(p * _RANDOM_VALUES), _RANDOM_VALUES - 1)
    count = shape.numel()
    bits = torch.empty(-(-count // 4), dtype=torch.int64, device="cpu").random_(-(1 << 63), None)
    dropped = bits.view(torch.int16)[:count].view(shape) < threshold - _RANDOM_VALUES // 2
    return dropped, _RANDOM_VALUES / (_RANDOM_VALUES - threshold)


class _DropoutOnCPU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_states: torch.Tensor, p: float) -> torch.Tensor:
        dropped, ctx.factor = draw_dropped(hidden_states.shape, p)
        ctx.save_for_backward(dropped)
        return hidden_states.masked_fill(dropped, 0).mul_(ctx.factor)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (dropped,) = ctx.saved_tensors
        return gradient.masked_fill(dropped, 0) * ctx.factor, None


class Dropout(nn.Dropout):
    """torch.nn.Dropout (Srivastava et al., 2014), several times faster in training on a CPU."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Of any shape, to the same shape."""
        if self.training and 0.0 < self.p < 1.0 and not self.inplace and is_eager_on_cpu(hidden_states):
            return _DropoutOnCPU.apply(hidden_states, self.p)
        return super().forward(hidden_states)
