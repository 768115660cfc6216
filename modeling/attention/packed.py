"""The interface of all classes that compute attention over packed sequences."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..packing import PackedBatch
from .heads import QKV, Rotation, split_heads

# A function of transformers' attention interface: (module, q, k, v, mask, **kwargs) to the output and the weights.
Attention = Callable[..., tuple[torch.Tensor, Any]]


def split(qkv: QKV, sizes: list[int]) -> list[QKV]:
    """Split query, key and value into parts. Slicing would allocate a full-size gradient for each part."""
    return list(zip(*(x.split(sizes) for x in qkv), strict=True))


def repeat_heads(heads: torch.Tensor, like: torch.Tensor, dim: int) -> torch.Tensor:
    """Repeat the heads of keys or values along `dim` for the query heads of another tensor; return them if equal."""
    repeats = like.shape[dim] // heads.shape[dim]
    return heads if repeats == 1 else heads.repeat_interleave(repeats, dim)


class PackedAttention(ABC):
    """Attention within each sequence of a packed batch. Created once per batch, and called in each layer.

    Args:
        packed: The batch.
    """

    def __init__(self, packed: PackedBatch) -> None:
        self.cu_seq_lens, self.lengths, self.max_length = packed.cu_seq_lens, packed.lengths, packed.max_length
        self._made: dict[Any, Any] = {}

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what `make` computes from the batch, such as a mask, and compute it once for each key."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def from_heads(
        self,
        module: nn.Module,
        attention: Attention,
        heads: torch.Tensor,
        rotation: Rotation | None,
        window: int | None,
        *bias: torch.Tensor,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Compute attention from what `split_heads` takes, (1, T, G, R + 2, C) and the rotation of the layer, if any.

        The other arguments and the output are those of `__call__`.
        """
        return self(module, attention, split_heads(heads, rotation), window, *bias, **kwargs)

    @abstractmethod
    def __call__(
        self, module: nn.Module, attention: Attention, qkv: QKV, window: int | None, *bias: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        """Compute attention.

        Args:
            module: The attention module of the layer, which `attention` takes as its first argument.
            attention: The function of the attention implementation.
            qkv: Query (1, T, H, head_dim), and key and value, which may have fewer heads.
            window: Number of tokens to attend to on each side; None for the whole sequence.
            *bias: What the position bias of the model has computed for the longest sequence, in the dtype of the
                scores. Only classes that `choose_varlen_attention` returns for biases use it.
            **kwargs: `dropout`, `scaling`, and the keyword arguments of the model's caller.

        Returns:
            The output, (1, T, H, head_dim).
        """
