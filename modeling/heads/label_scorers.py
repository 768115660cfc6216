"""Scores of labels for texts, from the vectors of both, as in GLiClass (Stepanov et al., 2025).

Shapes: B batch, C labels, D hidden.
"""

from collections.abc import Callable

import torch
from torch import nn

from ..cpu.dropout import Dropout

# Of the network of `MLPScorer`, in the package of GLiClass.
_INNER = 256


class DotScorer(nn.Module):
    """The dot product of the two vectors."""

    def forward(self, texts: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Score (B, D) and (B, C, D), to (B, C)."""
        return (labels @ texts[:, :, None]).squeeze(-1)


class WeightedDotScorer(nn.Module):
    """A network that reads a projection of each vector, and the product of two further ones.

    Args:
        channels: Number of channels of the vectors.
        dropout: Dropout probability.
    """

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.text_proj = nn.Linear(channels, 2 * channels)
        self.label_proj = nn.Linear(channels, 2 * channels)
        self.up_proj = nn.Linear(3 * channels, 4 * channels)
        self.dropout = Dropout(dropout)
        self.down_proj = nn.Linear(4 * channels, 1)

    def forward(self, texts: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Score (B, D) and (B, C, D), to (B, C)."""
        of_text, gate = self.text_proj(texts)[:, None].expand(-1, labels.shape[1], -1).chunk(2, dim=-1)
        of_label, gated = self.label_proj(labels).chunk(2, dim=-1)
        inner = self.up_proj(torch.cat([of_text, of_label, gate * gated], dim=-1))
        scores: torch.Tensor = self.down_proj(self.dropout(inner).relu())
        return scores.squeeze(-1)


class MLPScorer(nn.Module):
    """A network of three layers that reads both vectors.

    Args:
        channels: Number of channels of the vectors.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.up_proj = nn.Linear(2 * channels, _INNER)
        self.inner_proj = nn.Linear(_INNER, _INNER // 2)
        self.down_proj = nn.Linear(_INNER // 2, 1)

    def forward(self, texts: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Score (B, D) and (B, C, D), to (B, C)."""
        inner = self.up_proj(torch.cat([texts[:, None].expand_as(labels), labels], dim=-1)).relu()
        scores: torch.Tensor = self.down_proj(self.inner_proj(inner).relu())
        return scores.squeeze(-1)


# Each takes the number of channels and the dropout probability.
LABEL_SCORERS: dict[str, Callable[[int, float], nn.Module]] = {
    "dot": lambda channels, dropout: DotScorer(),
    "weighted_dot": WeightedDotScorer,
    "mlp": lambda channels, dropout: MLPScorer(channels),
}
