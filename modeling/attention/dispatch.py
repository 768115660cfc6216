"""Chooses the class that computes attention over packed sequences, and defines those for accelerators.

An instance is created once per batch from the `PackedBatch`, which knows the sequence boundaries. Every layer calls it
with q, k and v of shape (1, T, H, head_dim), and gets (1, T, H, head_dim). What depends only on the batch, such as a
mask, is computed once. `window` is how many tokens a token sees to each side; None means the whole sequence.
"""

import inspect
from functools import cache
from typing import Any, cast

import torch
from torch import nn
from transformers.masking_utils import create_bidirectional_mask, create_bidirectional_sliding_window_mask
from transformers.utils.generic import is_flash_attention_requested

from ...configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ..packing import PackedBatch
from .banded import BandedAttention
from .disentangled import DisentangledBias
from .grouped import GroupedAttention, needs_groups
from .heads import QKV
from .masks import within_window
from .packed import Attention, PackedAttention, repeat_heads
from .per_length import EqualLengthAttention
from .position_bias import BucketedBias, LinearBias

POSITION_BIASES: dict[str, type[nn.Module]] = {
    "bucketed": BucketedBias,
    "alibi": LinearBias,
    "disentangled": DisentangledBias,
}

# What the kernel of `torch.nn.attention.varlen` takes.
_VARLEN_DTYPES: tuple[torch.dtype, ...] = (torch.float16, torch.bfloat16)


def choose_varlen_attention(
    config: SequenceEncoderConfig, device: torch.device, dtype: torch.dtype, dropout: float, training: bool
) -> type[PackedAttention]:
    """Choose the class that computes attention over packed sequences.

    Args:
        config: The configuration of the model.
        device: The device of the hidden states.
        dtype: The dtype in which attention runs; under autocast, that of autocast.
        dropout: The dropout probability of the attention weights; 0 in evaluation mode.
        training: Whether the model is in training mode.
    """
    implementation = config._attn_implementation
    if is_flash_attention_requested(requested_attention_implementation=implementation):
        return FlashAttention
    if implementation == "flex_attention":
        return BlockMaskAttention
    if device.type == "cpu":
        if needs_groups(config, dtype, dropout, training):
            return GroupedAttention
        if config.sliding_window is not None and config.position_bias is None:
            return BandedAttention
        return EqualLengthAttention
    if config.position_bias is not None:
        # The biases of padded rows would need memory for the square of the longest length, for each row and head.
        return EqualLengthAttention
    if implementation == "sdpa" and not dropout and has_varlen_kernel(device, dtype, config.head_dim):
        return VarlenKernelAttention
    return PaddedRowsAttention


def check_takes_bias(implementation: str | None) -> None:
    """Check that an attention implementation can add a position bias to the scores.

    Raises:
        ValueError: If it cannot.
    """
    if implementation == "flex_attention" or is_flash_attention_requested(
        requested_attention_implementation=implementation
    ):
        raise ValueError(
            f"attn_implementation={implementation!r} does not support a position_bias; choose 'sdpa' or 'eager'."
        )


def has_varlen_kernel(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Return whether `torch.nn.attention.varlen` computes such heads on this device, with windows."""
    # Not all GPUs can train larger heads.
    suits = dtype in _VARLEN_DTYPES and head_dim % 8 == 0 and head_dim <= 192
    takes_windows = {"scale", "window_size"} <= _varlen_parameters()
    return suits and takes_windows and _runs_varlen_kernel(device)


@cache
def _varlen_parameters() -> frozenset[str]:
    """Return the parameters of torch's attention over packed sequences; none if torch does not have it."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return frozenset()
    return frozenset(inspect.signature(varlen_attn).parameters)


@cache
def _runs_varlen_kernel(device: torch.device) -> bool:
    """Return whether a device is a GPU of NVIDIA, Ampere or newer. GPUs of AMD have the same type."""
    if device.type != "cuda" or torch.version.cuda is None or not torch.cuda.is_available():
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def flash_window(window: int | None) -> int | None:
    """Return a window as transformers' flash functions count it, which include the token itself."""
    return None if window is None else window + 1


class FlashAttention(PackedAttention):
    """Flash attention through transformers' interface, which takes cumulative sequence lengths."""

    def __call__(
        self, module: nn.Module, attention: Attention, qkv: QKV, window: int | None, *bias: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        """See `PackedAttention`."""
        offsets, longest = self.cu_seq_lens.to(qkv[0].device), self.max_length
        output, _ = attention(
            module,
            *(x.transpose(1, 2) for x in qkv),
            None,
            sliding_window=flash_window(window),
            cu_seq_lens_q=offsets,
            cu_seq_lens_k=offsets,
            max_length_q=longest,
            max_length_k=longest,
            **kwargs,
        )
        return output


class VarlenKernelAttention(PackedAttention):
    """Flash attention of torch over cumulative sequence lengths. It has no dropout."""

    def __call__(
        self, module: nn.Module, attention: Attention, qkv: QKV, window: int | None, *bias: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        """See `PackedAttention`. `attention` is not used."""
        from torch.nn.attention.varlen import varlen_attn

        offsets, longest = self.cu_seq_lens.to(qkv[0].device), self.max_length
        q, k, v = (x[0] for x in qkv)
        reach = -1 if window is None else window
        lengths = (offsets, offsets, longest, longest)
        grouped: dict[str, Any] = {}
        if k.shape[1] < q.shape[1] and "enable_gqa" in _varlen_parameters():
            grouped["enable_gqa"] = True
        elif k.shape[1] < q.shape[1]:
            k, v = repeat_heads(k, q, 1), repeat_heads(v, q, 1)
        output = varlen_attn(q, k, v, *lengths, scale=kwargs["scaling"], window_size=(reach, reach), **grouped)
        return cast(torch.Tensor, output)[None]


class BlockMaskAttention(PackedAttention):
    """Flex attention with a block mask that separates the sequences."""

    def _mask(self, window: int | None, device: torch.device) -> Any:
        from torch.nn.attention.flex_attention import create_block_mask

        lengths = self.cu_seq_lens.diff().long()
        sequence = torch.arange(len(lengths), device=lengths.device)
        sequence = torch.repeat_interleave(sequence, lengths, output_size=sum(self.lengths)).to(device)

        def mask_mod(_b: torch.Tensor, _h: torch.Tensor, q_idx: torch.Tensor, kv_idx: torch.Tensor) -> torch.Tensor:
            same = sequence[q_idx] == sequence[kv_idx]
            return same if window is None else same & within_window(q_idx, kv_idx, window)

        return create_block_mask(mask_mod, None, None, len(sequence), len(sequence), device=device)

    def __call__(
        self, module: nn.Module, attention: Attention, qkv: QKV, window: int | None, *bias: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        """See `PackedAttention`."""
        where = (window, qkv[0].device)
        mask = self.once(where, lambda: self._mask(*where))
        output, _ = attention(module, *(x.transpose(1, 2) for x in qkv), mask, **kwargs)
        return output


class PaddedRowsAttention(PackedAttention):
    """Attention for any other implementation: pads the sequences for the attention only, and packs the output."""

    def __init__(self, packed: PackedBatch) -> None:
        super().__init__(packed)
        self.rows = packed.to_rows()

    def _mask(self, module: nn.Module, padded: torch.Tensor, window: int | None) -> Any:
        tokens = self.rows.position_ids.new_ones(self.rows.position_ids.shape, dtype=torch.bool)
        create = create_bidirectional_mask if window is None else create_bidirectional_sliding_window_mask
        real = self.rows.unpack(tokens).to(padded.device)
        return create(config=module.config, inputs_embeds=padded.flatten(2), attention_mask=real)

    def __call__(
        self, module: nn.Module, attention: Attention, qkv: QKV, window: int | None, *bias: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        """See `PackedAttention`."""
        query, key, value = (self.rows.unpack(x) for x in qkv)
        padded = (query, repeat_heads(key, query, 2), repeat_heads(value, query, 2))
        mask = self.once((window, query.device), lambda: self._mask(module, query, window))
        output, _ = attention(module, *(x.transpose(1, 2) for x in padded), mask, **kwargs)
        return self.rows.pack(output)
