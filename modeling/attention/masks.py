"""Attention masks for padded batches, in the format that each attention implementation takes.

Shapes: B batch, S sequence, H heads.
"""

from typing import Any

import torch
from transformers.masking_utils import create_bidirectional_mask, create_bidirectional_sliding_window_mask
from transformers.utils.generic import is_flash_attention_requested

from ...configuration.configuration_sequence_encoder import SequenceEncoderConfig


def real_tokens(attention_mask: torch.Tensor | None) -> torch.Tensor | None:
    """Return which tokens are not padding, (B, S) bool; None if all are.

    With a 4-D mask (bool, 0/1, or floating and added to the scores), a token is real if any token may attend to it.
    """
    if attention_mask is None or attention_mask.dim() == 2:
        return None if attention_mask is None else attention_mask != 0
    floating = attention_mask.is_floating_point()
    visible = attention_mask > lowest_score(attention_mask.dtype) if floating else attention_mask != 0
    return visible.any(dim=1).any(dim=1)


def mask_of_padding(input_ids: torch.Tensor | None, pad_token_id: int | None) -> torch.Tensor | None:
    """Return an attention mask (B, S) for texts that have none: 0 at `pad_token_id`; None if that is None."""
    return None if input_ids is None or pad_token_id is None else (input_ids != pad_token_id).long()


def within_window(query: Any, key: Any, window: int) -> Any:
    """Return whether tokens at the positions `query` and `key` of a sequence are at most `window` apart."""
    return (query - key).abs() <= window


def lowest_score(dtype: torch.dtype) -> float:
    """Return the value that a mask adds to a score to hide it.

    It is half of the lowest number, so that the sum stays finite: the softmax of a row of -inf would be NaN.
    """
    return torch.finfo(dtype).min / 2


def additive_mask(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a mask to add to scores, of the same shape as `allowed`: zero where attention is allowed."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, lowest_score(dtype))


def padded_masks(
    config: SequenceEncoderConfig,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None,
    starts: torch.Tensor | None,
) -> dict[str, Any]:
    """Return the attention mask for each layer type of the model.

    Args:
        config: The configuration of the model.
        hidden_states: (B, S, D), for shape, dtype and device.
        attention_mask: (B, S) or 4-D mask of the caller.
        starts: (B, S) bool, the starts of documents if rows have several. Tokens then attend to their own document.

    Raises:
        ValueError: If the attention implementation does not support such a mask.
    """
    layer_types = set(config.layer_types or [])
    documents = None if starts is None else starts.long().cumsum(dim=1)
    if attention_mask is not None and attention_mask.dim() == 4:
        return {name: _custom_mask(config, hidden_states, attention_mask, documents, name) for name in layer_types}

    arguments: dict[str, Any] = {
        "config": config,
        "inputs_embeds": hidden_states,
        "attention_mask": attention_mask,
    }
    flash = is_flash_attention_requested(config)
    if documents is not None and flash and (hidden_states.shape[0] > 1 or attention_mask is not None):
        raise ValueError(
            f"attn_implementation={config._attn_implementation!r} with output_hidden_states or torch.compile supports "
            "several documents per row only in a batch of one row without attention_mask; choose 'sdpa', or do not use "
            "these options."
        )
    if documents is not None and not flash:

        def same_document(batch: Any, head: Any, query: Any, key: Any) -> Any:
            return documents[batch, query] == documents[batch, key]

        arguments["and_mask_function"] = same_document
    create = {
        "full_attention": create_bidirectional_mask,
        "sliding_attention": create_bidirectional_sliding_window_mask,
    }
    return {name: create[name](**arguments) for name in layer_types}


def _custom_mask(
    config: SequenceEncoderConfig,
    hidden_states: torch.Tensor,
    mask: torch.Tensor,
    documents: torch.Tensor | None,
    layer_type: str,
) -> torch.Tensor:
    """Restrict the caller's 4-D mask to each token's document, (B, S) long, and to the window in sliding layers."""
    if config._attn_implementation not in ("eager", "sdpa"):
        raise ValueError(
            f"A 4-D attention_mask needs attn_implementation 'eager' or 'sdpa', got {config._attn_implementation!r}."
        )
    index = torch.arange(mask.shape[-1], device=mask.device)
    allowed = torch.ones_like(mask, dtype=torch.bool) if mask.is_floating_point() else mask != 0
    if layer_type == "sliding_attention":
        assert config.sliding_window is not None
        allowed = allowed & within_window(index[:, None], index, config.sliding_window)
    if documents is not None:
        allowed = allowed & (documents[:, None, :, None] == documents[:, None, None, :])
    if mask.is_floating_point():
        lowest = lowest_score(hidden_states.dtype)
        return torch.where(allowed, mask.to(hidden_states.dtype).clamp(min=lowest), lowest)
    if config._attn_implementation == "sdpa":
        return allowed
    return additive_mask(allowed, hidden_states.dtype)
