"""Rotary positions: queries and keys are rotated by angles that depend on their positions (Su et al., 2021).

Shapes: B batch, S sequence (1 and T for packed tokens), H heads, C channels of a head.
"""

from typing import Any

import torch

from ..cpu.eligibility import is_eager_on_cpu

# Number of tokens to rotate at once on a CPU, so that intermediate results stay in the cache.
_ROTATED_AT_ONCE = 512


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the channel pairs (i, i + C / 2), the half-split layout of transformers.

    Args:
        x: (B, S, ..., C).
        cos: (B or 1, S, C).
        sin: (B or 1, S, C), negated in the first half of the channels.
    """
    between = (1,) * (x.dim() - cos.dim())
    cos, sin = (t.to(x.dtype).view(*t.shape[:2], *between, t.shape[-1]) for t in (cos, sin))
    return _turn(x, cos, sin)


def split_and_rotate(
    qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Split (B, S, H, 3, C) into query, key and value, (B, S, H, C) each, and rotate query and key."""
    if is_eager_on_cpu(qkv, cos, sin) and len(qkv) == 1:
        query, key, value = _SplitAndRotate.apply(qkv[0], cos[0].to(qkv.dtype), sin[0].to(qkv.dtype))
        return query[None], key[None], value[None]
    query, key = rotate(qkv[..., :2, :], cos, sin).unbind(-2)
    return query, key, qkv[..., 2, :]


def _turn(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, direction: int = 1, out: torch.Tensor | None = None
) -> torch.Tensor:
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin, value=direction, out=out)


class _SplitAndRotate(torch.autograd.Function):
    """`split_and_rotate` for a single row; cos and sin are (T, C). The gradient is written once, as a single tensor."""

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
