"""Attention over packed sequences: the one place that chooses how it runs, and the ways it can run.

Every way takes q, k, v of shape (1, T, H, head_dim) and the `PackedBatch` that says where sequences end, and returns
(1, T, H, head_dim). `window` is how far a token sees to each side, None for all of its sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers.masking_utils import create_bidirectional_mask, create_bidirectional_sliding_window_mask
from transformers.utils.generic import is_flash_attention_requested

from .packing import PackedBatch


def choose_varlen_attention(implementation: str | None, device: torch.device) -> Callable[..., torch.Tensor]:
    """The way that suits an attention implementation (`config._attn_implementation`) on a device."""
    if is_flash_attention_requested(requested_attention_implementation=implementation):
        return attend_with_offsets
    if implementation == "flex_attention":
        return attend_with_block_mask
    if device.type == "cpu":
        return attend_by_length
    return attend_in_rows


def flash_window(window: int | None) -> int | None:
    """A window as the flash functions count it: with the token itself."""
    return None if window is None else window + 1


def _mask(module: torch.nn.Module, like: torch.Tensor, real: torch.Tensor | None, window: int | None) -> Any:
    """A mask in the form that the module's implementation takes; `like` lends (batch, length), dtype and device."""
    create = create_bidirectional_mask if window is None else create_bidirectional_sliding_window_mask
    return create(config=module.config, inputs_embeds=like, attention_mask=real)


def attend_by_length(
    module: torch.nn.Module,
    attention: Callable[..., tuple[torch.Tensor, Any]],
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    packed: PackedBatch,
    window: int | None,
    **kwargs: Any,
) -> torch.Tensor:
    """Dense attention over each run of sequences of one length: no padding, and no mask but the window's."""
    runs = packed.runs()
    # One split, and not a slice for each run: the gradient of a slice is as large as the whole.
    parts = [x[0].split([count * length for count, length in runs]) for x in (q, k, v)]
    outputs = []
    for (count, length), *qkv in zip(runs, *parts, strict=True):
        rows = [x.unflatten(0, (count, length)) for x in qkv]
        # A window that reaches from end to end hides nothing.
        hidden = window is not None and window < length - 1
        mask = _mask(module, rows[0][:1].flatten(2), None, window) if hidden else None
        output, _ = attention(module, *(x.transpose(1, 2) for x in rows), mask, **kwargs)
        outputs.append(output.reshape(count * length, *q.shape[2:]))
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs))[None]


def attend_with_offsets(
    module: torch.nn.Module,
    attention: Callable[..., tuple[torch.Tensor, Any]],
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    packed: PackedBatch,
    window: int | None,
    **kwargs: Any,
) -> torch.Tensor:
    """transformers' flash interface, which reads the cumulative lengths."""
    offsets = packed.cu_seqlens.to(q.device)
    output, _ = attention(
        module,
        *(x.transpose(1, 2) for x in (q, k, v)),
        None,
        sliding_window=flash_window(window),
        cu_seq_lens_q=offsets,
        cu_seq_lens_k=offsets,
        max_length_q=packed.max_length,
        max_length_k=packed.max_length,
        **kwargs,
    )
    return output


def attend_with_block_mask(
    module: torch.nn.Module,
    attention: Callable[..., tuple[torch.Tensor, Any]],
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    packed: PackedBatch,
    window: int | None,
    **kwargs: Any,
) -> torch.Tensor:
    """flex attention with a block mask by sequence."""
    from torch.nn.attention.flex_attention import create_block_mask

    tokens = q.shape[1]
    lengths = packed.cu_seqlens.diff().long()
    sequence = torch.repeat_interleave(torch.arange(len(lengths), device=q.device), lengths.to(q.device))

    def mask_mod(_b: torch.Tensor, _h: torch.Tensor, q_idx: torch.Tensor, kv_idx: torch.Tensor) -> torch.Tensor:
        same = sequence[q_idx] == sequence[kv_idx]
        return same if window is None else same & ((q_idx - kv_idx).abs() <= window)

    mask = create_block_mask(mask_mod, None, None, tokens, tokens, device=q.device)
    output, _ = attention(module, *(x.transpose(1, 2) for x in (q, k, v)), mask, **kwargs)
    return output


def attend_in_rows(
    module: torch.nn.Module,
    attention: Callable[..., tuple[torch.Tensor, Any]],
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    packed: PackedBatch,
    window: int | None,
    **kwargs: Any,
) -> torch.Tensor:
    """Any other implementation: padded rows and a mask for the attention alone, packed again at once."""
    rows = packed.to_rows()
    padded = [rows.unpack(x) for x in (q, k, v)]
    real = rows.unpack(q.new_ones(1, q.shape[1], dtype=torch.bool))
    mask = _mask(module, padded[0].flatten(2), real, window)
    output, _ = attention(module, *(x.transpose(1, 2) for x in padded), mask, **kwargs)
    return rows.pack(output)
