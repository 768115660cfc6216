"""The encoder layer, with norms after or before each branch."""

from typing import Any

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from ..configuration.configuration_sequence_encoder import SequenceEncoderConfig
from .attention.self_attention import SelfAttention
from .convolution import Convolution
from .cpu.dropout import Dropout
from .embeddings import HiddenStateModule
from .feed_forward import FEED_FORWARDS
from .norms import NORMS
from .packing import select_tokens


class EncoderLayer(GradientCheckpointingLayer, HiddenStateModule):
    """Base class of layers, with submodules of the same names for both placements of the norms.

    Layers take hidden states (B, S, D), or (1, T, D) for packed tokens, and return the same shape. With `needed`, the
    indices (K,) of packed tokens, they return the hidden states of these tokens only, (1, K, D). All other arguments go
    to the attention. Those that may need gradients, the mask and what the position bias has computed, are positional,
    because reentrant gradient checkpointing only passes on the gradients of positional tensors.
    """

    def __init__(self, config: SequenceEncoderConfig, layer_idx: int) -> None:
        super().__init__()
        self.layer_type: str = (config.layer_types or [])[layer_idx]
        self.self_attn = SelfAttention(config, self.layer_type)
        self.attn_norm = NORMS[config.norm](config)
        self.mlp = FEED_FORWARDS[config.feed_forward](config)
        self.mlp_norm = NORMS[config.norm](config)
        self.dropout = Dropout(config.hidden_dropout)


class PostNormLayer(EncoderLayer):
    """A layer with a norm after each residual addition, as in `torch.nn.TransformerEncoderLayer`."""

    def forward(
        self, hidden_states: torch.Tensor, *shared: Any, needed: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """See `EncoderLayer`."""
        attended, _ = self.self_attn(hidden_states, *shared, needed=needed, **kwargs)
        hidden_states = self.attn_norm(select_tokens(hidden_states, needed) + self.dropout(attended))
        return self.mlp_norm(hidden_states + self.dropout(self.mlp(hidden_states)))


class PreNormLayer(EncoderLayer):
    """A layer with a norm before each branch, which leaves the residual stream unchanged (Xiong et al., 2020)."""

    def __init__(self, config: SequenceEncoderConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        if layer_idx == 0 and config.omits_first_attn_norm:
            self.attn_norm = nn.Identity()

    def forward(
        self, hidden_states: torch.Tensor, *shared: Any, needed: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """See `EncoderLayer`."""
        attended, _ = self.self_attn(self.attn_norm(hidden_states), *shared, needed=needed, **kwargs)
        hidden_states = select_tokens(hidden_states, needed) + self.dropout(attended)
        return hidden_states + self.dropout(self.mlp(self.mlp_norm(hidden_states)))


class ConvolutionMixin(nn.Module):
    """Mixin of the first layer of a model with a convolution, which takes the text of each token, `segments`."""

    def __init__(self, config: SequenceEncoderConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.convolution = Convolution(config)

    def convolve(
        self, inputs: torch.Tensor, outputs: torch.Tensor, segments: Any, needed: torch.Tensor | None, attend: Any
    ) -> torch.Tensor:
        """Add the convolution of the input of this layer to hidden states. See `Convolution`."""
        if (real := getattr(attend, "real", None)) is not None:
            # In graphs, masks may leave out tokens inside a text, which count as zeros.
            segments = segments.flatten()[None]
            inputs, needed = real.unpack(inputs).flatten(0, 1)[None], real.indices
        return self.convolution(inputs, outputs, segments, needed)


class PostNormConvolutionLayer(ConvolutionMixin, PostNormLayer):
    """A layer with a convolution beside it, as in DeBERTa v2."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        *shared: Any,
        segments: Any = None,
        needed: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """See `EncoderLayer`."""
        outputs = super().forward(hidden_states, *shared, needed=needed, **kwargs)
        return self.convolve(hidden_states, outputs, segments, needed, kwargs.get("attend"))


class PreNormConvolutionLayer(ConvolutionMixin, PreNormLayer):
    """A layer with a convolution before it."""

    def forward(self, hidden_states: torch.Tensor, *shared: Any, segments: Any = None, **kwargs: Any) -> torch.Tensor:
        """See `EncoderLayer`."""
        hidden_states = self.convolve(hidden_states, hidden_states, segments, None, kwargs.get("attend"))
        return super().forward(hidden_states, *shared, **kwargs)


LAYERS: dict[str, type[EncoderLayer]] = {"post": PostNormLayer, "pre": PreNormLayer}
CONVOLUTION_LAYERS: dict[str, type[EncoderLayer]] = {"post": PostNormConvolutionLayer, "pre": PreNormConvolutionLayer}


def layer_classes(config: SequenceEncoderConfig) -> list[type[EncoderLayer]]:
    """Return the class of each layer of a model."""
    classes = [LAYERS[config.norm_placement]] * config.num_hidden_layers
    if config.conv_kernel_size:
        classes[:1] = [CONVOLUTION_LAYERS[config.norm_placement]]
    return classes
