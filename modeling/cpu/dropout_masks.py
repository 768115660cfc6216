"""Random masks for dropout on a CPU, where torch draws them one by one, which can take longer than the layers."""

import torch

from .eligibility import is_eager_on_cpu

# Each element takes 16 random bits; torch draws the bits of four elements at once.
_RANDOM_VALUES = 1 << 16


def draw_kept(shape: torch.Size, p: float) -> tuple[torch.Tensor, float]:
    """Draw which elements dropout keeps.

    The random numbers come from torch's generator, so `torch.manual_seed` and activation checkpointing work.

    Args:
        shape: The shape of the tensor.
        p: The dropout probability, which is rounded to a multiple of 2^-16.

    Returns:
        An int8 tensor of that shape, 1 for elements to keep and 0 for others; and the factor for those to keep, which
        matches the rounded probability.
    """
    threshold = min(round(p * _RANDOM_VALUES), _RANDOM_VALUES - 1)
    count = shape.numel()
    bits = torch.empty(-(-count // 4), dtype=torch.int64, device="cpu").random_(-(1 << 63), None)
    values = bits.view(torch.int16)[:count].view(shape)
    # In torch, comparisons into bool and fills by a bool mask are several times slower than operations on int8.
    kept = torch.ge(values, threshold - _RANDOM_VALUES // 2, out=torch.empty(shape, dtype=torch.int8, device="cpu"))
    return kept, _RANDOM_VALUES / (_RANDOM_VALUES - threshold)


def drop(x: torch.Tensor, kept: torch.Tensor, factor: float) -> torch.Tensor:
    """Return x · kept · factor, where `kept` and `factor` come from `draw_kept`."""
    if torch.is_grad_enabled() or not is_eager_on_cpu(x):  # For gradients of gradients and batched gradients.
        return x * kept * factor
    # In place, because the page faults of another large tensor take longer than the products.
    return kept.to(x.dtype).mul_(x).mul_(factor)
