"""How the tokens of a batch lie in the tensors of the layers: packed into one row, or padded.

Shapes: B batch, S padded length, T packed tokens, D hidden.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from transformers.utils.generic import is_flash_attention_requested

from ..configuration.configuration_sequence_encoder import SequenceEncoderConfig
from .attention.dispatch import choose_varlen_attention
from .attention.masks import padded_masks, real_tokens
from .checks import (
    check_document_index,
    check_first_positions,
    check_offsets,
    check_positions,
    check_windows_with_gaps,
    has_values,
)
from .convolution import packed_segments, padded_segments
from .cpu.shapes import compute_dtype, round_up_length, round_up_tokens
from .hooks import is_observed
from .packing import (
    PackedBatch,
    has_several_per_row,
    moved,
    offsets_from_starts,
    positions_from_documents,
    positions_from_zero,
    sequence_starts,
)

# Keyword arguments that describe a batch that the caller packed, for example with `DataCollatorWithFlattening`.
_PACKING_KEYWORDS = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx")
# What each layer takes beside the hidden states: a mask for each layer type, what the position bias has computed, and
# keyword arguments.
LayerInputs = tuple[Mapping[str, Any], tuple[torch.Tensor, ...], Mapping[str, Any]]


class Layout(ABC):
    """How the tokens of one batch lie.

    Attributes:
        position_ids: The positions of the tokens as they lie.
        token_mask: (B, S) bool, False at padding; None if there is no padding.
        several_documents: Whether a row of the batch has several documents.
        needed: (K,) the indices of the packed tokens that the last layer must compute; None for all tokens.
    """

    position_ids: torch.Tensor
    token_mask: torch.Tensor | None
    several_documents: bool
    needed: torch.Tensor | None = None

    @abstractmethod
    def arrange(self, padded: torch.Tensor) -> torch.Tensor:
        """Lay out an input of the model, (B, S, ...)."""

    @abstractmethod
    def padded(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return the hidden states of a layer as (B, S, D), with any values at padding."""

    @abstractmethod
    def output(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return the hidden states of the last layer as (B, S, D), with zeros at padding."""

    @abstractmethod
    def layer_inputs(self, model: Any, hidden_states: torch.Tensor, kwargs: Mapping[str, Any]) -> LayerInputs:
        """Return what all layers share.

        Args:
            model: The encoder.
            hidden_states: The input of the first layer.
            kwargs: The keyword arguments of `forward`.
        """


class PackedLayout(Layout):
    """The real tokens of a batch as one row (1, T)."""

    def __init__(
        self,
        model: Any,
        packed: PackedBatch,
        needed: torch.Tensor | bool,
        token_mask: torch.Tensor | None,
        planned_mask: torch.Tensor | None,
        device: torch.device,
    ) -> None:
        self.token_mask, self.several_documents = token_mask, packed.several_per_row
        packed = packed.filled(round_up_tokens(sum(packed.lengths), model.dtype, device))
        check_positions(model.config, packed.position_ids)
        # Found on the host, where the plan and the mask for it are.
        self.needed = moved(_needed_tokens(model, packed, needed, planned_mask, device), device)
        self.packed = packed.to(device)
        self.position_ids = self.packed.position_ids

    def arrange(self, padded: torch.Tensor) -> torch.Tensor:
        """See `Layout`."""
        return self.packed.pack(padded)

    def padded(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """See `Layout`."""
        return self.packed.unpack(hidden_states)

    def output(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """See `Layout`."""
        return self.packed.unpack(hidden_states, self.needed)

    def layer_inputs(self, model: Any, hidden_states: torch.Tensor, kwargs: Mapping[str, Any]) -> LayerInputs:
        """See `Layout`."""
        config: SequenceEncoderConfig = model.config
        device, dtype = hidden_states.device, compute_dtype(hidden_states.dtype, hidden_states.device)
        dropout = config.attention_dropout if model.training else 0.0
        kind = choose_varlen_attention(config, device, dtype, dropout, model.training)
        options = {name: value for name, value in kwargs.items() if name not in _PACKING_KEYWORDS}
        bias: tuple[torch.Tensor, ...] = ()
        if config.position_bias is not None:
            kind = model.position_bias.packed_attention(kind)
            # Attention in groups may round up the length of the longest text.
            length = round_up_length(max(self.packed.max_length, 1), 0, dtype, device)
            bias = model.position_bias.for_layers(model._layers_in_order(), length, hidden_states)
        if config.conv_kernel_size:
            options["segments"] = packed_segments(self.packed)
        return {}, bias, {**options, "attend": kind(self.packed)}


class PaddedLayout(Layout):
    """All tokens as they are, (B, S), with masks that hide padding in attention."""

    def __init__(
        self,
        model: Any,
        attention_mask: torch.Tensor | None,
        token_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        starts: torch.Tensor,
        may_restart: bool,
    ) -> None:
        known = has_values(starts)
        self.attention_mask, self.token_mask, self.starts = attention_mask, token_mask, starts
        self.several_documents = may_restart and known and has_several_per_row(starts)
        position_ids = offsets_from_starts(starts) if position_ids is None else position_ids.to(starts.device)
        self.position_ids = position_ids if token_mask is None else position_ids * token_mask
        check_positions(model.config, self.position_ids)
        self.document_starts = starts if self.several_documents or (may_restart and not known) else None

    def arrange(self, padded: torch.Tensor) -> torch.Tensor:
        """See `Layout`."""
        return padded

    def padded(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """See `Layout`."""
        return hidden_states

    def output(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """See `Layout`."""
        hidden_states = self.padded(hidden_states)
        if self.token_mask is None:
            return hidden_states
        return hidden_states.masked_fill(~self.token_mask.to(hidden_states.device)[..., None], 0)

    def layer_inputs(self, model: Any, hidden_states: torch.Tensor, kwargs: Mapping[str, Any]) -> LayerInputs:
        """See `Layout`."""
        config: SequenceEncoderConfig = model.config
        like = hidden_states.new_empty(*self.starts.shape, 1)
        masks = padded_masks(config, like, self.attention_mask, self.document_starts)
        options, bias = dict(kwargs), ()
        if config.position_bias is not None:
            bias = model.position_bias.for_layers(model._layers_in_order(), self.starts.shape[1], hidden_states)
            masks, bias = model.position_bias.in_padded(masks, *bias)
        if config.conv_kernel_size:
            options["segments"] = padded_segments(self.starts, self.token_mask)
        if self.document_starts is not None and is_flash_attention_requested(config):
            # The flash functions of transformers separate documents where positions restart.
            options["position_ids"] = offsets_from_starts(self.document_starts)
        return masks, bias, options


def choose_layout(
    model: Any,
    tokens: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None,
    needed: torch.Tensor | bool,
    kwargs: Mapping[str, Any],
) -> Layout:
    """Pack a batch, unless tracing, the meta device, requested outputs or its mask need it padded.

    Args:
        model: The encoder.
        tokens: The `input_ids` or `inputs_embeds` of `SequenceEncoderModel.forward`, also for the other arguments.
        attention_mask: (B, S) or a 4-D mask.
        position_ids: (B or 1, S).
        needed: The tokens whose vectors the caller uses.
        kwargs: The keyword arguments of `forward`.
    """
    shape = (tokens.shape[0], tokens.shape[1])
    token_mask = real_tokens(attention_mask)
    token_mask = None if token_mask is None else token_mask.expand(shape)
    pads = (
        not has_values(tokens)
        or (attention_mask is not None and attention_mask.dim() == 4)
        or model._requested("output_hidden_states", kwargs)
        or kwargs["output_attentions"]
    )
    # Packing is planned on the host, which needs the lengths. On an accelerator, it would wait for each of them.
    device = tokens.device if pads else torch.device("cpu")
    planned_mask = None if token_mask is None else token_mask.to(device)
    cu_seq_lens, seq_idx = moved(kwargs.get("cu_seq_lens_q"), device), kwargs.get("seq_idx")
    check_offsets(cu_seq_lens, kwargs.get("cu_seq_lens_k"), attention_mask, shape)
    if seq_idx is not None and cu_seq_lens is None and position_ids is None:
        check_document_index(seq_idx, attention_mask, shape)
        position_ids = positions_from_documents(seq_idx)
    if position_ids is not None:
        position_ids = position_ids.expand(shape).to(device)
        if model.config.position_offset:
            # Those of the caller may start at this offset in each document.
            starts = sequence_starts(shape, device, planned_mask, position_ids, cu_seq_lens)
            check_first_positions(position_ids, starts, model.config.position_offset)
            position_ids = positions_from_zero(position_ids, starts, model.config.position_offset)
    documents = (shape, device, planned_mask, position_ids, cu_seq_lens)
    if not pads:
        packed = PackedBatch.from_padded(*documents)
        if model.config.position_bias is not None or model.config.sliding_window or model.config.conv_kernel_size:
            pads = _counts_gaps(model.config, packed)
        if not pads:
            return PackedLayout(model, packed, needed, token_mask, planned_mask, tokens.device)
    starts = sequence_starts(*documents).to(tokens.device)
    may_restart = position_ids is not None or cu_seq_lens is not None
    arguments = (model, attention_mask, token_mask, position_ids, starts, may_restart)
    # The layouts of graphs differ only for batches with a mask.
    return (PaddedLayout if token_mask is None else model.padded_layout)(*arguments)


def _counts_gaps(config: SequenceEncoderConfig, packed: PackedBatch) -> bool:
    """Return whether windows or distances count masked tokens between others, which packing would remove."""
    counts = config.position_bias is not None or "sliding_attention" in (config.layer_types or [])
    if not ((counts or config.conv_kernel_size) and packed.has_gaps()):
        return False
    check_windows_with_gaps(config)
    return True


def _needed_tokens(
    model: Any, packed: PackedBatch, needed: torch.Tensor | bool, token_mask: torch.Tensor | None, device: torch.device
) -> torch.Tensor | None:
    """Return the indices (K,) of the packed tokens that the last layer must compute on a device; None for all.

    Hooks of the model or of the last layer expect to see all tokens.
    """
    if needed is True or not model.layers or is_observed(model) or is_observed(model.layers[-1]):
        return None
    tokens = torch.as_tensor(needed, device=packed.position_ids.device).expand(packed.shape)
    if model.pooler is not None and not packed.several_per_row:
        read = model.pooler.tokens_read(packed.shape, token_mask, tokens.device)
        if read is None:
            return None
        tokens = tokens | read
    return packed.places_of(tokens, partial(round_up_tokens, dtype=model.dtype, device=device))
