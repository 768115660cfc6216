"""Rotary positions: queries and keys are rotated by angles that depend on their positions (Su et al., 2021).

Shapes: B batch, S sequence (1 and T for packed tokens), H heads, C channels of a head.
"""

import torch


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the channel pairs (i, i + C / 2), the half-split layout of transformers.

    Args:
        x: (B, S, ..., C).
        cos: (B or 1, S, C).
        sin: (B or 1, S, C), negated in the first half of the channels.
    """
    between = (1,) * (x.dim() - cos.dim())
    cos, sin = (t.to(x.dtype).view(*t.shape[:2], *between, t.shape[-1]) for t in (cos, sin))
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


def split_and_rotate(
    qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Split (B, S, H, 3, C) into query, key and value, (B, S, H, C) each, and rotate query and key."""
    query, key = rotate(qkv[..., :2, :], cos, sin).unbind(-2)
    return query, key, qkv[..., 2, :]
