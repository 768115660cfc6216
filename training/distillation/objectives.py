"""What a student learns from the outputs of its teacher, by the kind of the teacher.

Shapes: B batch, S sequence, D channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch.nn import functional as F

from ...modeling.pooling import POOLINGS
from ...modeling.text_encoding.prepared_encoding import PreparedEncoding

# Vectors that are cut off at fewer dimensions are of little use.
_SMALLEST = 32


class Objective(Protocol):
    """What a student learns.

    Attributes:
        metric: The name of the metric that chooses the best weights. Larger is better.
    """

    metric: ClassVar[str]

    def outputs(
        self, model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None
    ) -> torch.Tensor:
        """Return what a student computes for texts (B, S), in the form of the targets."""

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss of a batch."""

    def metrics(self, outputs: np.ndarray, targets: np.ndarray) -> Mapping[str, float]:
        """Compare the outputs of a student with those of its teacher."""


class VectorObjective:
    """The vectors of the teacher: their directions and their lengths, whole and truncated.

    Args:
        prepared: How the teacher turns texts into vectors.
        sizes: The sizes to which vectors can be truncated.
    """

    metric: ClassVar[str] = "cosine"

    def __init__(self, prepared: PreparedEncoding, sizes: Sequence[int]) -> None:
        self.recipe, self.skipped = prepared.recipe, prepared.skipped
        self.sizes = [*(size for size in sizes if size < prepared.kept_channels), prepared.kept_channels]

    def outputs(
        self, model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the vectors (B, D). See `Objective`."""
        states = model(input_ids, attention_mask, token_type_ids).last_hidden_state
        mask = attention_mask.bool()
        mask[:, : self.skipped] = False
        vectors = torch.cat([POOLINGS[mode](states, mask) for mode in self.recipe.pooling], dim=-1).float()
        for step in self.recipe.after:
            vectors = step(vectors)
        return vectors[:, : self.sizes[-1]]

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See `Objective`."""
        losses = []
        for size in self.sizes:
            found, wanted = outputs[:, :size], targets[:, :size]
            error = F.mse_loss(found, wanted) / wanted.square().mean().clamp(min=1e-12)
            losses.append(1 - F.cosine_similarity(found, wanted).mean() + error)
        return torch.stack(losses).mean()

    def metrics(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """See `Objective`."""
        cosines = F.cosine_similarity(torch.tensor(outputs), torch.tensor(targets))
        return {"cosine": float(cosines.mean())}


def matryoshka_sizes(channels: int) -> list[int]:
    """Return the powers of two to which vectors can be truncated."""
    return [2**power for power in range(_SMALLEST.bit_length() - 1, channels.bit_length()) if 2**power < channels]
