"""Rotary positions of one packed row on a CPU: query, key and value are split and rotated in one pass.

Shapes: T packed tokens, H heads, C channels of a head.
"""

from typing import Any

import torch

from .eligibility import is_eager_on_cpu

# Number of tokens to rotate at once on a CPU, so that intermediate results stay in the cache.
_ROTATED_AT_ONCE = 512


def rotates_row(qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> bool:
    """Return whether `split_and_rotate_row` can compute these tensors."""
    return is_eager_on_cpu(qkv, cos, sin) and len(qkv) == 1


def split_and_rotate_row(
    qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Split (1, T, H, 3, C) into query, key and value, (1, T, H, C) each, and rotate query and key."""
    query, key, value = _SplitAndRotate.apply(qkv[0], cos[0].to(qkv.dtype), sin[0].to(qkv.dtype))
    return query[None], key[None], value[None]


def _turn(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, direction: int = 1, out: torch.Tensor | None = None
) -> torch.Tensor:
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin, value=direction, out=out)


class _SplitAndRotate(torch.autograd.Function):
    """`split_and_rotate_row` without the first dimension; cos and sin are (T, C). Gradients are written once."""

    @staticmethod
    def forward(
        ctx: Any, qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(cos, sin)
        tokens, heads, _, channels = qkv.shape
        query, key, value = (qkv.new_empty(tokens, heads, channels) for _ in range(3))
        tensors = (qkv, cos[:, None], sin[:, None], query, key, value)
        for x, c, s, q, k, v in zip(*(tensor.split(_ROTATED_AT_ONCE) for tensor in tensors), strict=True):
            _turn(x[:, :, 0], c, s, out=q)
            _turn(x[:, :, 1], c, s, out=k)
            v.copy_(x[:, :, 2])
        return query, key, value

    @staticmethod
    def backward(
        ctx: Any, of_query: torch.Tensor, of_key: torch.Tensor, of_value: torch.Tensor
    ) -> tuple[torch.Tensor, None, None]:
        cos, sin = (t[:, None] for t in ctx.saved_tensors)
        if torch.is_grad_enabled() or not is_eager_on_cpu(of_query, of_key, of_value):
            # Out of place, for gradients of gradients and for batched gradients.
            turned = (_turn(gradient, cos, sin, -1) for gradient in (of_query, of_key))
            return torch.stack([*turned, of_value], dim=2), None, None
        of_qkv = of_query.new_empty(*of_query.shape[:2], 3, of_query.shape[2])
        tensors = (of_qkv, cos, sin, of_query, of_key, of_value)
        for x, c, s, q, k, v in zip(*(tensor.split(_ROTATED_AT_ONCE) for tensor in tensors), strict=True):
            _turn(q, c, s, -1, out=x[:, :, 0])
            _turn(k, c, s, -1, out=x[:, :, 1])
            x[:, :, 2] = v
        return of_qkv, None, None
