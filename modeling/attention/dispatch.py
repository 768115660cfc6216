"""Attention over packed sequences: the one place that chooses how it runs, and the ways of an accelerator.

A way is made once for a batch, from the `PackedBatch` that says where sequences end, and called in every layer with
q, k, v of shape (1, T, H, head_dim); it returns (1, T, H, head_dim). What depends on the batch alone, such as a mask,
is made once. `window` is how far a token sees to each side, None for all of its sequence.
"""

import inspect
from functools import cache
from typing import Any, cast

import torch
from torch import nn
from transformers.masking_utils import create_bidirectional_mask, create_bidirectional_sliding_window_mask
from transformers.utils.generic import is_flash_attention_requested

from ..packing import PackedBatch
from .grouped import GroupedAttention
from .masks import within_window
from .packed import QKV, AttentionFunction, PackedAttention
from .per_length import EqualLengthAttention


def choose_varlen_attention(
    implementation: str | None, device: torch.device, dtype: torch.dtype, dropout: float, training: bool
) -> type[PackedAttention]:
    """The way that suits an attention implementation (`config._attn_implementation`) and what it is to compute with.

    dtype and dropout are those of the attention itself: under autocast its dtype, and none in evaluation.
    """
    if is_flash_attention_requested(requested_attention_implementation=implementation):
        return FlashAttention
    if implementation == "flex_attention":
        return BlockMaskAttention
    if device.type == "cpu":
        grouped = dropout or (training and dtype == torch.bfloat16)
        return GroupedAttention if grouped and implementation == "sdpa" else EqualLengthAttention
    if implementation == "sdpa" and not dropout and has_varlen_kernel(device, dtype):
        return VarlenKernelAttention
    return PaddedRowsAttention


def has_varlen_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch's own attention over cumulative lengths, with windows, runs here (torch.nn.attention.varlen)."""
    half = dtype in (torch.float16, torch.bfloat16)
    return half and device.type == "cuda" and _varlen_kernel_takes_windows() and _is_ampere_or_newer(device.index)


@cache
def _varlen_kernel_takes_windows() -> bool:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return {"scale", "window_size"} <= inspect.signature(varlen_attn).parameters.keys()


@cache
def _is_ampere_or_newer(index: int | None) -> bool:
    return torch.cuda.is_available() and torch.cuda.get_device_capability(index) >= (8, 0)


def flash_window(window: int | None) -> int | None:
    """A window as the flash functions count it: with the token itself."""
    return None if window is None else window + 1


class FlashAttention(PackedAttention):
    """transformers' flash interface, which reads the cumulative lengths."""

    def __call__(
        self, module: nn.Module, attention: AttentionFunction, qkv: QKV, window: int | None, **kwargs: Any
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
    """torch's flash attention over cumulative lengths. It has no dropout."""

    def __call__(
        self, module: nn.Module, attention: AttentionFunction, qkv: QKV, window: int | None, **kwargs: Any
    ) -> torch.Tensor:
        """See `PackedAttention`; `attention` is not used."""
        from torch.nn.attention.varlen import varlen_attn

        offsets, longest = self.cu_seq_lens.to(qkv[0].device), self.max_length
        q, k, v = (x[0] for x in qkv)
        reach = -1 if window is None else window
        lengths = (offsets, offsets, longest, longest)
        output = varlen_attn(q, k, v, *lengths, scale=kwargs["scaling"], window_size=(reach, reach))
        return cast(torch.Tensor, output)[None]


class BlockMaskAttention(PackedAttention):
    """flex attention with a block mask by sequence."""

    def __init__(self, packed: PackedBatch) -> None:
        super().__init__(packed)
        self.masks: dict[tuple[int | None, torch.device], Any] = {}

    def _mask(self, window: int | None, device: torch.device) -> Any:
        from torch.nn.attention.flex_attention import create_block_mask

        lengths = self.cu_seq_lens.diff().long()
        sequence = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths).to(device)

        def mask_mod(_b: torch.Tensor, _h: torch.Tensor, q_idx: torch.Tensor, kv_idx: torch.Tensor) -> torch.Tensor:
            same = sequence[q_idx] == sequence[kv_idx]
            return same if window is None else same & within_window(q_idx, kv_idx, window)

        return create_block_mask(mask_mod, None, None, len(sequence), len(sequence), device=device)

    def __call__(
        self, module: nn.Module, attention: AttentionFunction, qkv: QKV, window: int | None, **kwargs: Any
    ) -> torch.Tensor:
        """See `PackedAttention`."""
        where = (window, qkv[0].device)
        if where not in self.masks:
            self.masks[where] = self._mask(*where)
        output, _ = attention(module, *(x.transpose(1, 2) for x in qkv), self.masks[where], **kwargs)
        return output


class PaddedRowsAttention(PackedAttention):
    """Any other implementation: padded rows and a mask for the attention alone, packed again at once."""

    def __init__(self, packed: PackedBatch) -> None:
        super().__init__(packed)
        self.rows = packed.to_rows()
        self.masks: dict[tuple[int | None, torch.device], Any] = {}

    def _mask(self, module: nn.Module, padded: torch.Tensor, window: int | None) -> Any:
        tokens = self.rows.position_ids.new_ones(self.rows.position_ids.shape, dtype=torch.bool)
        create = create_bidirectional_mask if window is None else create_bidirectional_sliding_window_mask
        real = self.rows.unpack(tokens).to(padded.device)
        return create(config=module.config, inputs_embeds=padded.flatten(2), attention_mask=real)

    def __call__(
        self, module: nn.Module, attention: AttentionFunction, qkv: QKV, window: int | None, **kwargs: Any
    ) -> torch.Tensor:
        """See `PackedAttention`."""
        padded = [self.rows.unpack(x) for x in qkv]
        where = (window, padded[0].device)
        if where not in self.masks:
            self.masks[where] = self._mask(module, padded[0], window)
        output, _ = attention(module, *(x.transpose(1, 2) for x in padded), self.masks[where], **kwargs)
        return self.rows.pack(output)
