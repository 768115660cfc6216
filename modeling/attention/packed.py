"""What all ways of attention over packed sequences have in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..packing import PackedBatch

# Of transformers' attention interface: (module, q, k, v, mask, **kwargs) to the output and the weights.
AttentionFunction = Callable[..., tuple[torch.Tensor, Any]]
QKV = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def split(qkv: QKV, sizes: list[int]) -> list[QKV]:
    """Query, key and value of as many tokens each. Not sliced: the gradient of a slice is as large as the whole."""
    return list(zip(*(x.split(sizes) for x in qkv), strict=True))


class PackedAttention(ABC):
    """Attention of every sequence of a batch to itself. Made once for a batch, and called in each layer.

    What depends on the batch alone, such as a mask, is made once.
    """

    def __init__(self, packed: PackedBatch) -> None:
        self.cu_seq_lens, self.lengths, self.max_length = packed.cu_seq_lens, packed.lengths, packed.max_length

    @abstractmethod
    def __call__(
        self, module: nn.Module, attention: AttentionFunction, qkv: QKV, window: int | None, **kwargs: Any
    ) -> torch.Tensor:
        """Attends.

        Args:
            module: the layer's, for `attention`.
            attention: the function of the layer's attention implementation.
            qkv: query, key and value, (1, T, H, head_dim) each.
            window: how far a token sees to each side, None for all of its sequence.
            kwargs: `dropout` and `scaling`, and what the caller of the model gave.

        Returns:
            (1, T, H, head_dim).
        """
