"""Splits what a layer projects into queries, keys and values, and rotates queries and keys.

Shapes: B batch, S sequence, G heads of keys and values, R queries for each of them, C channels of a head.
"""

import torch

# Cosines and sines of each token, (B or 1, S, C), the sines negated in the first half of the channels.
Rotation = tuple[torch.Tensor, torch.Tensor]
# Queries (..., G * R, C), and keys and values (..., G, C), each for R consecutive heads of queries.
QKV = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def split_heads(heads: torch.Tensor, rotation: Rotation | None) -> QKV:
    """Split (B, S, G, R + 2, C) into queries (B, S, G * R, C), and keys and values (B, S, G, C).

    Args:
        heads: For each head of keys and values its queries, the key and the value.
        rotation: The rotation of queries and keys, if positions are rotary.
    """
    # Not slices: the backward pass of each would fill the gradient of the whole with zeros.
    if rotation is None:
        query, key, value = heads.split([heads.shape[-2] - 2, 1, 1], -2)
    else:
        turned, value = heads.split([heads.shape[-2] - 1, 1], -2)
        query, key = rotate(turned, *rotation).split([heads.shape[-2] - 2, 1], -2)
    return query.flatten(-3, -2), key.squeeze(-2), value.squeeze(-2)


def join_heads(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Undo `split_heads`, without a rotation."""
    queries = query.unflatten(-2, (key.shape[-2], -1))
    return torch.cat([queries, key.unsqueeze(-2), value.unsqueeze(-2)], -2)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate queries and keys by angles that depend on their positions (Su et al., 2021).

    The pairs are the channels (i, i + C / 2), the half-split layout of transformers.

    Args:
        x: (B, S, ..., C).
        cos: (B or 1, S, C).
        sin: (B or 1, S, C), negated in the first half of the channels.
    """
    between = (1,) * (x.dim() - cos.dim())
    cos, sin = (t.to(x.dtype).view(*t.shape[:2], *between, t.shape[-1]) for t in (cos, sin))
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


def rotate_rows(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, direction: int = 1, into: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute `rotate`, or its gradient, for x (..., S, C) and cosines and sines that broadcast to it.

    It takes half of the time if the tokens of each head follow one another in memory, but autograd does not record it.

    Args:
        x: (..., S, C).
        cos: (..., S, C).
        sin: (..., S, C).
        direction: 1, or -1 for the gradient.
        into: (..., S, C), the tensor to write to.
    """
    turned = torch.mul(x, cos, out=into)
    halves = (part.chunk(2, dim=-1) for part in (turned, x, sin))
    (first, second), (of_first, of_second), (sin_of_first, sin_of_second) = halves
    first.addcmul_(of_second, sin_of_first, value=direction)
    second.addcmul_(of_first, sin_of_second, value=direction)
    return turned
