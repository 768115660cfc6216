"""Token embeddings in eight bits.

Shapes: V vocabulary, E channels.
"""

import torch
from torch import nn


class EightBitEmbedding(nn.Module):
    """A table of vectors in eight bits, with a factor for each of them.

    Args:
        num_embeddings: V.
        embedding_dim: E.

    Attributes:
        weight: (V, E) int8.
        weight_scale: (V, 1), whose dtype is that of the output.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        # The first parameter of a model, from which sentence-transformers takes the dtype of its other modules.
        self.weight_scale = nn.Parameter(torch.ones(num_embeddings, 1), requires_grad=False)
        weight = torch.zeros(num_embeddings, embedding_dim, dtype=torch.int8)
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return the vectors of ids, from (...) to (..., E)."""
        scale = nn.functional.embedding(input_ids, self.weight_scale)
        return nn.functional.embedding(input_ids, self.weight).to(scale.dtype) * scale

    def extra_repr(self) -> str:
        """Return the sizes, as `nn.Embedding` does."""
        return f"{self.num_embeddings}, {self.embedding_dim}"
