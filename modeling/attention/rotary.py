"""Rotary positions: queries and keys are rotated by angles that depend on their positions (Su et al., 2021).

Shapes: B batch, S sequence (1 and T for packed tokens), G groups of heads, C channels of a head.
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
    qkv: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor] | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Split the output of `qkv_proj` into queries, keys and values, and rotate queries and keys.

    Args:
        qkv: (B, S, G, R + 2, C): for each of G groups, R queries, a key and a value.
        rotation: Cosines and sines; None for positions that are not rotary.

    Returns:
        (B, S, G * R, C) queries, and (B, S, G, C) keys and values.
    """
    queries = qkv.shape[-2] - 2
    # Not slices: the backward pass of each would fill the gradient of the whole with zeros.
    if rotation is None:
        query, key, value = qkv.split([queries, 1, 1], -2)
    else:
        turned, value = qkv.split([queries + 1, 1], -2)
        query, key = rotate(turned, *rotation).split([queries, 1], -2)
    return query.flatten(-3, -2), key.squeeze(-2), value.squeeze(-2)
