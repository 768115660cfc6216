"""The encoder: from token ids to a vector for every token and every text.

Shapes: B batch, S padded length, T real tokens, D hidden, E channels of the embeddings (usually D).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils import logging
from transformers.utils.generic import is_flash_attention_requested, merge_with_config_defaults
from transformers.utils.import_utils import is_tracing
from transformers.utils.output_capturing import capture_outputs

from ..configuration.configuration_sequence_encoder import SequenceEncoderConfig
from .attention.dispatch import POSITION_BIASES, check_takes_bias, choose_varlen_attention
from .attention.masks import padded_masks, real_tokens
from .attention.packed import PackedAttention
from .checks import (
    check_attentions,
    check_document_index,
    check_embeddings_type,
    check_first_positions,
    check_inputs,
    check_needed,
    check_offsets,
    check_positions,
    check_windows_with_gaps,
    on_host,
)
from .convolution import packed_segments, padded_segments
from .cpu.shapes import compute_dtype, round_up_length, round_up_tokens
from .embeddings import InputEmbeddings
from .forward_options import ForwardOptions
from .layer_vectors import LayerVectors, add_vectors
from .layers import LAYERS, EncoderLayer
from .norms import NORMS
from .packing import (
    PackedBatch,
    RealTokens,
    has_several_per_row,
    moved,
    offsets_from_starts,
    positions_from_documents,
    positions_from_zero,
    sequence_starts,
)
from .pooling import Pooler
from .pretrained_model import SequenceEncoderPreTrainedModel
from .text_encoding.text_encoding import TextEncodingMixin

logger = logging.get_logger(__name__)

# Keyword arguments that describe a batch that the caller packed, for example with `DataCollatorWithFlattening`.
_PACKING_KEYWORDS = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx")


class SequenceEncoderModel(TextEncodingMixin, SequenceEncoderPreTrainedModel):  # type: ignore[misc] # wraps `push_to_hub`
    """The encoder without a task head.

    The model does not compute padding. It packs the real tokens of a batch into one row, applies all layers, and
    unpacks them at the end. Padding may be on either side.

    Args:
        config: The configuration.
        add_pooling_layer: Whether to compute `pooler_output`, one vector per text: `config.pooling`, followed by a
            dense layer if `config.pooler_act` is set, or preceded by it with `config.pooler_placement="before"`.
    """

    _saves_recipe = True
    # The heads of `SequenceEncoderForRetrieval`, whose folders are also those of an encoder.
    _keys_to_ignore_on_load_unexpected = [r"^(sparse|colbert)_linear\."]  # noqa: RUF012
    _packs_in_graphs = False

    def __init__(self, config: SequenceEncoderConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.embedding_dim)
        self.embeddings = InputEmbeddings(config)
        self.position_bias = POSITION_BIASES[config.position_bias](config)
        layer, groups = LAYERS[config.norm_placement], config.layer_groups
        # One module for each group of layers, made for the first layer of the group.
        self.layers = nn.ModuleList(layer(config, groups.index(group)) for group in range(config.num_distinct_layers))
        self.norm = NORMS[config.norm](config) if config.norm_placement == "pre" else nn.Identity()
        self.pooler = Pooler(config) if add_pooling_layer else None
        self.gradient_checkpointing = False
        self.post_init()

    @contextmanager
    def packed_in_graphs(self) -> Iterator[None]:
        """Let graphs that are traced in this block leave padding out, except in attention.

        Their sizes depend on values, which not all uses of `torch.export` and `torch.compile` support.
        """
        before, self._packs_in_graphs = self._packs_in_graphs, True
        try:
            yield
        finally:
            self._packs_in_graphs = before

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        needed: torch.Tensor | bool = True,
        **kwargs: Unpack[ForwardOptions],
    ) -> BaseModelOutputWithPooling:
        """Encode a batch.

        Args:
            input_ids: (B, S) token ids.
            attention_mask: (B, S), 0 at padding; or a 4-D mask (B, 1 or heads, S, S), which has zeros and ones if it is
                bool or integer, and is added to the scores if it is floating.
            token_type_ids: (B, S) segments. Ignored if `type_vocab_size` is 0, so that any tokenizer works.
            position_ids: (B, S). By default, the distance of each token from the first real token of its row. A new
                document starts wherever the positions do not increase, and documents do not attend to each other. With
                a `position_offset`, each document may start at 0 or at that offset, as in RoBERTa.
            inputs_embeds: (B, S, E) token vectors instead of `input_ids`.
            needed: The tokens whose vectors in `last_hidden_state` the caller uses: True for all, False if the caller
                uses only `pooler_output`, or (B, S) bool. The last layer may skip all other tokens, whose vectors are
                then zero.
            **kwargs: `output_hidden_states`, `output_attentions` (with `attn_implementation` "sdpa" or "eager") and
                `return_dict`; `layer_vectors`, a `LayerVectors` to fill; for a batch that the caller packed,
                `cu_seq_lens_q` (N + 1,) or `seq_idx` (B, S).

        Returns:
            `last_hidden_state` (B, S, D), zero at padding, and `pooler_output` (B, D), which is None without a pooling
            layer or if a row has several documents.

        Raises:
            ValueError: If arguments contradict the configuration or each other.
        """
        shape = self._check(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, needed, kwargs)
        tokens = cast(torch.Tensor, input_ids if inputs_embeds is None else inputs_embeds)
        inputs = (input_ids, token_type_ids, inputs_embeds)
        token_mask = real_tokens(attention_mask)
        token_mask = None if token_mask is None else token_mask.expand(shape)
        # Packing is planned on the host, which needs the lengths. On an accelerator, it would wait for each of them.
        pads = self._needs_padding(tokens, attention_mask, kwargs)
        device = tokens.device if pads else torch.device("cpu")
        planned_mask = None if token_mask is None else token_mask.to(device)
        cu_seq_lens, seq_idx = moved(kwargs.get("cu_seq_lens_q"), device), kwargs.get("seq_idx")
        check_offsets(cu_seq_lens, kwargs.get("cu_seq_lens_k"), attention_mask, shape)
        if seq_idx is not None and cu_seq_lens is None and position_ids is None:
            check_document_index(seq_idx, attention_mask, shape)
            position_ids = positions_from_documents(seq_idx)
        if position_ids is not None:
            position_ids = position_ids.expand(shape).to(device)
            position_ids = self._positions_from_zero(position_ids, planned_mask, cu_seq_lens)
        documents = (shape, device, planned_mask, position_ids, cu_seq_lens)
        vectors: LayerVectors | None = kwargs.pop("layer_vectors", None)
        if vectors is not None and self.config.num_hidden_layers in vectors.layers:
            needed = True

        packed = None
        if not pads:
            packed = PackedBatch.from_padded(*documents)
            counts = self.position_bias is not None or "sliding_attention" in (self.config.layer_types or [])
            if (counts or self.config.conv_kernel_size) and packed.has_gaps():
                # Windows and distances count tokens that the mask leaves out. Packing would bring others closer.
                check_windows_with_gaps(self.config)
                packed = None
        if packed is not None:
            several_documents = packed.several_per_row
            packed = packed.filled(round_up_tokens(sum(packed.lengths), self.dtype, tokens.device))
            check_positions(self.config, packed.position_ids)
            needed_tokens = moved(self._needed_tokens(packed, needed, planned_mask, tokens.device), tokens.device)
            packed = packed.to(tokens.device)
            last_hidden_state = self._encode_packed(packed, needed_tokens, vectors, token_mask, *inputs, kwargs)
        else:
            starts = sequence_starts(*documents).to(tokens.device)
            may_restart = position_ids is not None or cu_seq_lens is not None
            several_documents = may_restart and not is_tracing(tokens) and has_several_per_row(starts)
            position_ids = offsets_from_starts(starts) if position_ids is None else position_ids.to(tokens.device)
            position_ids = position_ids if token_mask is None else position_ids * token_mask
            check_positions(self.config, position_ids)
            document_starts = starts if several_documents or (may_restart and is_tracing(tokens)) else None
            options = {"segments": padded_segments(starts, token_mask)} if self.config.conv_kernel_size else {}
            options = {**kwargs, **options}
            real = None if token_mask is None or not self._packs_in_graphs else RealTokens(token_mask)
            masks = (attention_mask, document_starts)
            last_hidden_state = self._encode_padded(real, vectors, token_mask, *masks, position_ids, *inputs, options)
        if token_mask is not None:
            token_mask = token_mask.to(last_hidden_state.device)
            if packed is None:
                last_hidden_state = last_hidden_state.masked_fill(~token_mask[..., None], 0)
        pooled = None if self.pooler is None or several_documents else self.pooler(last_hidden_state, token_mask)
        return BaseModelOutputWithPooling(last_hidden_state=last_hidden_state, pooler_output=pooled)

    def _check(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        needed: torch.Tensor | bool,
        kwargs: Any,
    ) -> tuple[int, int]:
        """Check the arguments of `forward`, set `output_attentions` in kwargs to its effective value, return (B, S)."""
        shape = check_inputs(self.config, input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        if inputs_embeds is not None:
            check_embeddings_type(self.config, inputs_embeds, self.dtype)
        kwargs["output_attentions"] = self._requested("output_attentions", kwargs)
        if kwargs["output_attentions"]:
            check_attentions(self.config)
        check_needed(needed, shape)
        if self.position_bias is not None:
            check_takes_bias(self.config._attn_implementation)
        unmasked = input_ids is not None and attention_mask is None and kwargs.get("cu_seq_lens_q") is None
        if unmasked and self.config.pad_token_id is not None and not is_tracing(input_ids):
            # It reads only the first and the last tokens, one by one.
            ends = on_host(cast(torch.Tensor, input_ids)[:, :: max(1, shape[1] - 1)])
            self.warn_if_padding_and_no_attention_mask(ends, None)
        return shape

    def _positions_from_zero(
        self,
        position_ids: torch.Tensor,
        token_mask: torch.Tensor | None,
        cu_seq_lens: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return positions that start at 0 in each document, even if those of the caller start at `position_offset`."""
        offset = self.config.position_offset
        if not offset:
            return position_ids
        shape = (position_ids.shape[0], position_ids.shape[1])
        starts = sequence_starts(shape, position_ids.device, token_mask, position_ids, cu_seq_lens)
        check_first_positions(position_ids, starts, offset)
        return positions_from_zero(position_ids, starts, offset)

    def _encode_packed(
        self,
        packed: PackedBatch,
        needed: torch.Tensor | None,
        vectors: LayerVectors | None,
        token_mask: torch.Tensor | None,
        input_ids: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        kwargs: Mapping[str, Any],
    ) -> torch.Tensor:
        """Apply all layers to the real tokens as one row (1, T, D), and unpack the needed ones to (B, S, D)."""
        kwargs = {name: value for name, value in kwargs.items() if name not in _PACKING_KEYWORDS}
        if self.config.conv_kernel_size:
            kwargs["segments"] = packed_segments(packed)
        input_ids, token_type_ids, inputs_embeds = (
            None if padded is None else packed.pack(padded) for padded in (input_ids, token_type_ids, inputs_embeds)
        )
        hidden_states, rotations = self._embed(input_ids, token_type_ids, packed.position_ids, inputs_embeds)
        attend = self._choose_attention(hidden_states)(packed)
        dtype = compute_dtype(hidden_states.dtype, hidden_states.device)
        # Attention in groups may round up the length of the longest text.
        longest = round_up_length(max(packed.max_length, 1), 0, dtype, hidden_states.device)
        bias = self._biases(longest, hidden_states)
        layers = self._layers_in_order()
        add_vectors(vectors, 0, hidden_states, packed, token_mask)
        for depth, layer in enumerate(layers, start=1):
            hidden_states = layer(
                hidden_states,
                None,
                *bias,
                rotation=rotations.get(layer.layer_type),
                attend=attend,
                needed=needed if depth == len(layers) else None,
                **kwargs,
            )
            add_vectors(vectors, depth, hidden_states, packed, token_mask)
        return packed.unpack(self.norm(hidden_states), needed)

    def _layers_in_order(self) -> list[EncoderLayer]:
        """Return the layer of each depth. Layers that share their weights are the same module."""
        layers = list(cast("list[EncoderLayer]", self.layers))
        shared = self.config.num_hidden_groups is not None
        return [layers[group] for group in self.config.layer_groups] if shared else layers

    def _needed_tokens(
        self,
        packed: PackedBatch,
        needed: torch.Tensor | bool,
        token_mask: torch.Tensor | None,
        device: torch.device,
    ) -> torch.Tensor | None:
        """Return the indices (K,) of the packed tokens that the last layer must compute on a device; None for all.

        Hooks of the model or of the last layer expect to see all tokens.
        """
        if needed is True or not self.layers or self._forward_hooks or self.layers[-1]._forward_hooks:
            return None
        tokens = torch.as_tensor(needed, device=packed.position_ids.device).expand(packed.shape)
        if self.pooler is not None and not packed.several_per_row:
            read = self.pooler.tokens_read(packed.shape, token_mask, tokens.device)
            if read is None:
                return None
            tokens = tokens | read
        return packed.places_of(tokens, partial(round_up_tokens, dtype=self.dtype, device=device))

    def _choose_attention(self, hidden_states: torch.Tensor) -> type[PackedAttention]:
        dropout = self.config.attention_dropout if self.training else 0.0
        kind = choose_varlen_attention(
            self.config._attn_implementation,
            hidden_states.device,
            compute_dtype(hidden_states.dtype, hidden_states.device),
            self.config.head_dim,
            dropout,
            self.training,
            self.position_bias,
        )
        return kind if self.position_bias is None else self.position_bias.packed_attention(kind)

    def _biases(self, length: int, hidden_states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return what the position bias tells layers of texts of up to `length` tokens; nothing without one."""
        if self.position_bias is None or not self.layers:
            return ()
        qkv_weight = self._layers_in_order()[0].self_attn.qkv_proj.weight
        bias = self.position_bias(length, hidden_states.device, qkv_weight)
        dtype = compute_dtype(hidden_states.dtype, hidden_states.device)
        return tuple(tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in bias)

    def _encode_padded(
        self,
        real: RealTokens | None,
        vectors: LayerVectors | None,
        token_mask: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        document_starts: torch.Tensor | None,
        position_ids: torch.Tensor,
        input_ids: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        kwargs: Mapping[str, Any],
    ) -> torch.Tensor:
        """Apply all layers to all (B, S) tokens, with masks that hide padding.

        With `real`, which graphs may have, all but attention applies to the real tokens as one row (1, T, D).
        """
        shape = position_ids.shape
        if real is not None:
            position_ids = real.pack(position_ids)
            input_ids, token_type_ids, inputs_embeds = (
                None if padded is None else real.pack(padded) for padded in (input_ids, token_type_ids, inputs_embeds)
            )
        hidden_states, rotations = self._embed(input_ids, token_type_ids, position_ids, inputs_embeds)
        masks = padded_masks(self.config, hidden_states.new_empty(*shape, 1), attention_mask, document_starts)
        bias = self._biases(shape[1], hidden_states)
        if self.position_bias is not None:
            masks, bias = self.position_bias.in_padded(masks, *bias)
        if document_starts is not None and is_flash_attention_requested(self.config):
            # The flash functions of transformers separate documents where positions restart.
            kwargs = {**kwargs, "position_ids": offsets_from_starts(document_starts)}
        add_vectors(vectors, 0, hidden_states, real, token_mask)
        for depth, layer in enumerate(self._layers_in_order(), start=1):
            hidden_states = layer(
                hidden_states,
                masks[layer.layer_type],
                *bias,
                rotation=rotations.get(layer.layer_type),
                real=real,
                **kwargs,
            )
            add_vectors(vectors, depth, hidden_states, real, token_mask)
        hidden_states = self.norm(hidden_states)
        return hidden_states if real is None else real.unpack(hidden_states)

    def _embed(
        self,
        input_ids: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
        position_ids: torch.Tensor,
        inputs_embeds: torch.Tensor | None,
    ) -> tuple[torch.Tensor, dict[str, tuple[torch.Tensor, torch.Tensor]]]:
        """Return the input of the first layer, and the rotations of queries and keys for each layer type."""
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        hidden_states = self.embeddings(inputs_embeds, token_type_ids, position_ids)
        return hidden_states, self.embeddings.positions.rotations(position_ids)

    def _requested(self, name: str, kwargs: Mapping[str, Any]) -> bool:
        """Return whether the call, or else the configuration, requests an optional output."""
        value = kwargs.get(name)
        return bool(getattr(self.config, name, False) if value is None else value is not False)

    def _needs_padding(
        self, tokens: torch.Tensor, attention_mask: torch.Tensor | None, kwargs: Mapping[str, Any]
    ) -> bool:
        """Return whether the batch must stay padded in attention, because of tracing, outputs or a 4-D mask."""
        return (
            is_tracing(tokens)
            or (attention_mask is not None and attention_mask.dim() == 4)
            or self._requested("output_hidden_states", kwargs)
            or kwargs["output_attentions"]
        )
