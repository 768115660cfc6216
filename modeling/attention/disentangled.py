"""Disentangled attention (He et al., 2021): tokens also attend to distances, and distances to tokens.

The trunk looks up the embeddings of the distances that occur, once per batch. Each layer projects them, and multiplies
them with its queries and keys.

Shapes: H heads, L length of the longest sequence, C channels of a head, R embeddings of distances.
"""

from typing import Any

import torch
from torch import nn
from transformers.utils.import_utils import is_tracing

from ...configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ..cpu.dropout import Dropout
from ..cpu.eligibility import is_eager_on_cpu
from ..cpu.linear import linear_of_constant
from ..norms import NORMS
from .disentangled_packed import DisentangledAttention, GroupedDisentangledAttention
from .disentangled_scores import Tables, WithDistances
from .grouped import GroupedAttention
from .packed import Attention, PackedAttention
from .per_length import EqualLengthAttention
from .position_bias import PositionBias

# The classes that compute attention over packed sequences, by those for models that add biases to all layers.
_PACKED: dict[type[PackedAttention], type[PackedAttention]] = {
    EqualLengthAttention: DisentangledAttention,
    GroupedAttention: GroupedDisentangledAttention,
}


class DisentangledBias(PositionBias):
    """The embeddings of distances, which all layers share, with an optional norm."""

    # Not None if the layers are prepacked, and keep the projections of all distances.
    prepacked: Any = None

    def __init__(self, config: SequenceEncoderConfig) -> None:
        super().__init__()
        self.buckets = config.position_buckets
        self.max_distance = config.max_relative_positions or config.max_position_embeddings
        self.table = nn.Embedding(config.relative_rows, config.hidden_size)
        normalise = {"layer_norm": NORMS[config.norm], "none": lambda config: nn.Identity()}
        self.norm = normalise[config.norm_rel_ebd](config)

    def forward(
        self, length: int, device: torch.device, qkv_weight: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Return the embeddings of the distances that occur in texts of up to `length` tokens.

        Args:
            length: The length L.
            device: The device of the result.
            qkv_weight: Not used, because each layer projects the embeddings for its heads.

        Returns:
            The embeddings (R, D), and the row for each distance from -L to L, (2L + 1,).
        """
        distances = torch.arange(-length, length + 1, device=device)
        index = (self._bucketed(distances) + len(self.table.weight) // 2).clamp(0, len(self.table.weight) - 1)
        weight = self.table.weight
        kept = self.prepacked is not None and not torch.is_grad_enabled() and is_eager_on_cpu(weight)
        # Many distances share a row, so the whole table may be shorter. A traced length has no value to compare.
        if is_tracing(weight) or (len(index) < len(weight) and not kept):
            weight, index = self.table(index), torch.arange(2 * length + 1, device=device)
        return self.norm(weight), index

    def _bucketed(self, distances: torch.Tensor) -> torch.Tensor:
        if self.buckets is None:
            return distances
        middle = self.buckets // 2
        # In float32 and in this order, because another rounding would move a distance to another bucket.
        size = torch.where(distances.abs() < middle, middle - 1, distances.abs())
        range_of_logs = torch.log(torch.tensor((self.max_distance - 1) / middle))
        far = torch.ceil(torch.log(size / middle) / range_of_logs * (middle - 1)) + middle
        return torch.where(size <= middle, distances, (far * distances.sign()).long())

    def packed_attention(self, kind: type[PackedAttention]) -> type[PackedAttention]:
        """See `PositionBias`."""
        return _PACKED[kind]

    def in_padded(self, masks: dict[str, Any], *bias: torch.Tensor) -> tuple[dict[str, Any], tuple[torch.Tensor, ...]]:
        """See `PositionBias`. Each layer computes its own scores."""
        return masks, bias


class DistanceProjections(nn.Module):
    """The part of a layer that projects distances, with the weights of its queries and keys if they are shared."""

    def __init__(self, config: SequenceEncoderConfig) -> None:
        super().__init__()
        types = config.pos_att_type or []
        self.shared = config.share_att_key
        self.c2p, self.p2c = "c2p" in types, "p2c" in types
        self.dropout = Dropout(config.hidden_dropout)

        self.key_proj, self.query_proj = (
            nn.Linear(config.hidden_size, config.hidden_size) if used and not self.shared else None
            for used in (self.c2p, self.p2c)
        )

    def around(
        self, attention: Attention, module: nn.Module, rows: torch.Tensor, row_of: torch.Tensor
    ) -> WithDistances:
        """Return an attention function that adds the products with distances to the scores.

        Args:
            attention: The function of the attention implementation.
            module: The attention module of the layer.
            rows: The embeddings of distances.
            row_of: The row for each distance.
        """
        return WithDistances(attention, self._tables(module, rows, row_of))

    def _tables(self, module: Any, rows: torch.Tensor, row_of: torch.Tensor) -> Tables:
        index = row_of.to(module.qkv_proj.weight.device)
        rows = self.dropout(rows.to(index.device))
        heads = (-1, module.head_dim)
        if self.shared:
            both = linear_of_constant(module.qkv_proj, rows).unflatten(-1, (-1, *module.group))
            key, query = both[..., 1, :] if self.c2p else None, both[..., 0, :] if self.p2c else None
        else:
            key, query = (
                None if proj is None else linear_of_constant(proj, rows).unflatten(-1, heads)
                for proj in (self.key_proj, self.query_proj)
            )
        return Tables(
            None if key is None else (key.index_select(0, index[:-1].flip(0)) * module.scaling).transpose(0, 1),
            None if query is None else (query.index_select(0, index[1:]) * module.scaling).transpose(0, 1),
        )
