"""The two-layer projection in the heads of GLiNER (Zaratiana et al., 2024)."""

import torch
from torch import nn

from ..cpu.dropout import Dropout
from ..cpu.linear import fused_linear, fused_linear_activation


class Projection(nn.Module):
    """Two linear layers with a ReLU and dropout between them. The inner one has four times the channels.

    Args:
        channels: Number of channels of inputs and outputs.
        dropout: Dropout probability.
    """

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.up_proj = nn.Linear(channels, 4 * channels)
        self.act = nn.ReLU()
        self.dropout = Dropout(dropout)
        self.down_proj = nn.Linear(4 * channels, channels)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Project vectors, (..., C) to (..., C)."""
        inner = self.dropout(fused_linear_activation(self.up_proj, self.act, vectors))
        return fused_linear(self.down_proj, inner)
