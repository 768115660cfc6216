"""Position biases: numbers that depend on the distance of two tokens, and are added to their attention score.

Distances count tokens of the text, whichever positions the caller passes. The biases are computed once per batch, for
the longest text: those of a shorter text are a part of them.

Shapes: H heads, L length of the longest text.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ...configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ..cpu.shapes import compute_dtype
from .masks import lowest_score
from .packed import PackedAttention


class PositionBias(nn.Module):
    """Base class of position biases."""

    def values(self, distances: torch.Tensor) -> torch.Tensor:
        """Return the bias for each distance, the index of the key minus that of the query: (N,) long to (H, N)."""
        raise NotImplementedError

    def forward(
        self, length: int, device: torch.device, qkv_weight: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Return what layers need to know of the distances in texts of up to `length` tokens.

        Here this is one tensor, the biases of queries and keys, (H, L, L).

        Args:
            length: The length L, at least 1.
            device: The device of the result.
            qkv_weight: The weight that projects queries, keys and values in a layer. If tensor parallelism shards it,
                the result is only for the heads of this process.
        """
        distances = torch.arange(2 * length, device=device)
        # The distances from 0 to L - 1 and from -L to -1, repeated for every query. Rows that are one element shorter
        # shift each query by one more element than the query before, and need no gather.
        values = self.values(torch.where(distances < length, distances, distances - 2 * length))
        values = heads_of_this_process(values, qkv_weight)
        rows = values[:, None].expand(-1, length, -1).flatten(1)[:, : length * (2 * length - 1)]
        return (rows.unflatten(1, (length, 2 * length - 1))[..., :length],)

    def for_layers(self, layers: Sequence[Any], length: int, hidden_states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the result of `forward` in the dtype of the scores; nothing if there are no layers.

        Args:
            layers: The layers.
            length: The length L.
            hidden_states: The input of the first layer.
        """
        if not layers:
            return ()
        device = hidden_states.device
        dtype = compute_dtype(hidden_states.dtype, device)
        bias = self(length, device, layers[0].self_attn.qkv_proj.weight)
        return tuple(tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in bias)

    def packed_attention(self, kind: type[PackedAttention]) -> type[PackedAttention]:
        """Return the class that adds these biases in attention over packed sequences, given that for other models."""
        return kind

    def in_padded(self, masks: dict[str, Any], *bias: torch.Tensor) -> tuple[dict[str, Any], tuple[torch.Tensor, ...]]:
        """Add the biases to the masks of a padded batch.

        Args:
            masks: The masks by layer type.
            *bias: The result of `forward`.

        Returns:
            The masks, and what layers need apart from them.
        """
        return {layer_type: biased_mask(mask, *bias) for layer_type, mask in masks.items()}, ()


class BucketedBias(PositionBias):
    """A learned bias for each head and bucket of distances, shared by all layers (Raffel et al., 2020; MPNet).

    Half of the buckets are for keys after the query. In each half, half of the buckets hold one distance each, and the
    others hold ranges that grow logarithmically up to `relative_attention_max_distance`.
    """

    def __init__(self, config: SequenceEncoderConfig) -> None:
        super().__init__()
        self.num_buckets = config.relative_attention_num_buckets
        self.max_distance = config.relative_attention_max_distance
        self.table = nn.Embedding(self.num_buckets, config.num_attention_heads)

    def values(self, distances: torch.Tensor) -> torch.Tensor:
        """See `PositionBias`."""
        return self.table(self.buckets(distances)).t()

    def buckets(self, distances: torch.Tensor) -> torch.Tensor:
        """Return the bucket of each distance."""
        half = self.num_buckets // 2
        exact = half // 2
        size = distances.abs()
        # In float32 and in this order, because another rounding would move a distance to another bucket.
        growth = torch.log(size.float() / exact) / math.log(self.max_distance / exact) * (half - exact)
        far = (exact + growth.clamp(min=0).long()).clamp(max=half - 1)
        return half * (distances > 0) + torch.where(size < exact, size, far)


class LinearBias(PositionBias):
    """ALiBi, a penalty that grows linearly with the distance at a fixed rate for each head (Press et al., 2022)."""

    def __init__(self, config: SequenceEncoderConfig) -> None:
        super().__init__()
        self.slopes = _alibi_slopes(config.num_attention_heads)

    def values(self, distances: torch.Tensor) -> torch.Tensor:
        """See `PositionBias`."""
        slopes = torch.tensor(self.slopes, dtype=torch.float32).to(distances.device, non_blocking=True)
        return -slopes[:, None] * distances.abs()


def _alibi_slopes(heads: int) -> list[float]:
    """Return 2^(-8 i / n) for heads i = 1 to n; if n is no power of 2, add every other slope of the next power."""
    power = 2 ** int(math.log2(heads))
    slopes = [2 ** (-8 * i / power) for i in range(1, power + 1)]
    return slopes if power == heads else slopes + _alibi_slopes(2 * power)[::2][: heads - power]


def heads_of_this_process(values: torch.Tensor, qkv_weight: torch.Tensor | None) -> torch.Tensor:
    """Select the heads whose queries, keys and values this process computes.

    Args:
        values: (H, N), the same in all processes. Its gradient is that of all heads.
        qkv_weight: See `PositionBias.forward`.

    Returns:
        The same values, or (heads of this process, N) with tensor parallelism.
    """
    mesh = getattr(qkv_weight, "device_mesh", None)
    # A mesh without this name shards weights only to store them.
    if mesh is None or "tp" not in (mesh.mesh_dim_names or ()):
        return values
    from torch.distributed.tensor import DTensor, Replicate, Shard

    whole = DTensor.from_local(values, mesh["tp"], [Replicate()], run_check=False)
    return whole.redistribute(placements=[Shard(0)]).to_local()


def biased_mask(mask: torch.Tensor | None, bias: torch.Tensor) -> torch.Tensor:
    """Add a position bias to the mask of a padded batch.

    Args:
        mask: (B, 1 or H, S, S), bool and True where attention is allowed, or additive; None if it hides nothing.
        bias: (H, S, S) in the dtype of the scores.

    Returns:
        The sum, (B or 1, H, S, S).
    """
    if mask is None:
        return bias[None]
    if mask.dtype == torch.bool:
        return torch.where(mask, bias, lowest_score(bias.dtype))
    # The sum with the lowest number of the dtype could overflow to -inf.
    return torch.where(mask > lowest_score(mask.dtype), mask + bias, mask)
