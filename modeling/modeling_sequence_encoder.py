"""The encoder: from token ids to a vector for every token and every text.

Shapes: B batch, S padded length, T real tokens, D hidden, E channels of the embeddings (usually D).
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from ..configuration.configuration_sequence_encoder import SequenceEncoderConfig
from .attention.dispatch import POSITION_BIASES, check_takes_bias
from .checks import check_attentions, check_embeddings_type, check_inputs, check_needed, has_values, on_host
from .embeddings import InputEmbeddings
from .forward_options import ForwardOptions
from .layers import EncoderLayer, layer_classes
from .layouts import PaddedLayout, choose_layout
from .norms import NORMS
from .packing import moved
from .pooling import Pooler
from .pretrained_model import SequenceEncoderPreTrainedModel
from .static_names import rename_table
from .text_encoding.text_encoding import TextEncodingMixin


class SequenceEncoderModel(TextEncodingMixin, SequenceEncoderPreTrainedModel):  # type: ignore[misc] # wraps `push_to_hub`
    """The encoder without a task head.

    The model does not compute padding. It packs the real tokens of a batch into one row, applies all layers, and
    unpacks them at the end. Padding may be on either side.

    Args:
        config: The configuration.
        add_pooling_layer: Whether to compute `pooler_output`, one vector per text: `config.pooling`, followed by a
            dense layer if `config.pooler_act` is set, or preceded by it with `config.pooler_placement="before"`.
    """

    _auto_classes: tuple[str, ...] = ("AutoModel",)
    _hub_task = "feature-extraction"
    _use = "`sequence-encoder embed`, `index` or `serve`"
    # How batches lie that are not packed. Graphs have another class.
    padded_layout: type[PaddedLayout] = PaddedLayout
    _saves_recipe = True
    # The heads of `SequenceEncoderForRetrieval`, whose folders are also those of an encoder.
    _keys_to_ignore_on_load_unexpected = [r"^(sparse|colbert)_linear\."]  # noqa: RUF012

    def __init__(self, config: SequenceEncoderConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.embedding_dim)
        self.embeddings = InputEmbeddings(config)
        if config.position_bias is not None:
            self.position_bias = POSITION_BIASES[config.position_bias](config)
        # One module for each group of layers, made for the first layer of the group.
        classes, groups = layer_classes(config), config.layer_groups
        firsts = [groups.index(group) for group in range(config.num_distinct_layers)]
        self.layers = nn.ModuleList(classes[first](config, first) for first in firsts)
        self.norm = NORMS[config.norm](config) if config.norm_placement == "pre" else nn.Identity()
        self.pooler = Pooler(config) if add_pooling_layer else None
        self.gradient_checkpointing = False
        self.is_static = config.is_static
        if self.is_static:
            self.register_load_state_dict_pre_hook(rename_table)
        self.post_init()

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
                bool or integer, and is added to the scores if it is floating. A 4-D mask does not limit a convolution.
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
        self._check((input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds), needed, kwargs)
        vectors = kwargs.pop("layer_vectors", None)
        if vectors is not None and self.config.num_hidden_layers in vectors.layers:
            needed = True
        tokens = cast(torch.Tensor, input_ids if inputs_embeds is None else inputs_embeds)
        layout = choose_layout(self, tokens, attention_mask, position_ids, needed, kwargs)

        # NEFTune (Jain et al., 2023) scales its noise by the length of the rows that the table gets.
        if inputs_embeds is None and hasattr(self.embed_tokens, "neftune_noise_alpha"):
            tokens = inputs_embeds = self.embed_tokens(tokens)
        tokens = layout.arrange(tokens)
        token_type_ids = None if token_type_ids is None else layout.arrange(token_type_ids)
        embeds = self.embed_tokens(tokens) if inputs_embeds is None else tokens
        hidden_states = self.embeddings(embeds, token_type_ids, layout.position_ids)
        rotations = self.embeddings.positions.rotations(layout.position_ids)
        masks, bias, options = layout.layer_inputs(self, hidden_states, kwargs)
        layers = self._layers_in_order()
        if vectors is not None:
            vectors.add(0, hidden_states, layout)
        for depth, layer in enumerate(layers, start=1):
            hidden_states = layer(
                hidden_states,
                masks.get(layer.layer_type),
                *bias,
                rotation=rotations.get(layer.layer_type),
                needed=layout.needed if depth == len(layers) else None,
                **options,
            )
            if vectors is not None:
                vectors.add(depth, hidden_states, layout)
        last_hidden_state = layout.output(self.norm(hidden_states))
        pooled = None
        if self.pooler is not None and not layout.several_documents:
            pooled = self.pooler(last_hidden_state, moved(layout.token_mask, last_hidden_state.device))
        return BaseModelOutputWithPooling(last_hidden_state=last_hidden_state, pooler_output=pooled)

    def _check(self, inputs: tuple[torch.Tensor | None, ...], needed: torch.Tensor | bool, kwargs: Any) -> None:
        """Check the arguments of `forward`, and set `output_attentions` in kwargs to its effective value."""
        shape = check_inputs(self.config, *inputs)
        input_ids, attention_mask, *_, inputs_embeds = inputs
        if inputs_embeds is not None:
            check_embeddings_type(self.config, inputs_embeds, self.dtype)
        kwargs["output_attentions"] = self._requested("output_attentions", kwargs)
        if kwargs["output_attentions"]:
            check_attentions(self.config)
        check_needed(needed, shape)
        if self.config.position_bias is not None:
            check_takes_bias(self.config._attn_implementation)
        unmasked = input_ids is not None and attention_mask is None and kwargs.get("cu_seq_lens_q") is None
        if unmasked and self.config.pad_token_id is not None and has_values(cast(torch.Tensor, input_ids)):
            # It reads only the first and the last tokens, one by one.
            ends = on_host(cast(torch.Tensor, input_ids)[:, :: max(1, shape[1] - 1)])
            self.warn_if_padding_and_no_attention_mask(ends, None)

    def _layers_in_order(self) -> list[EncoderLayer]:
        """Return the layer of each depth. Layers that share their weights are the same module."""
        layers = list(cast("list[EncoderLayer]", self.layers))
        shared = self.config.num_hidden_groups is not None
        return [layers[group] for group in self.config.layer_groups] if shared else layers

    def _requested(self, name: str, kwargs: Mapping[str, Any]) -> bool:
        """Return whether the call, or else the configuration, requests an optional output."""
        value = kwargs.get(name)
        return bool(getattr(self.config, name, False) if value is None else value is not False)
