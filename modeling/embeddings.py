"""Input embeddings: the position axis, segment types, and what is done to their sum."""

import math

import torch
from torch import nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ..configuration.configuration_sequence_encoder import SequenceEncoderConfig
from .cpu.dropout import Dropout
from .norms import NORMS

Rotations = dict[str, tuple[torch.Tensor, torch.Tensor]]


class Positions(nn.Module):
    """What every choice of the position axis has: something to add to the embeddings, and rotations for attention."""

    def __init__(self, config: SequenceEncoderConfig) -> None:
        super().__init__()

    def forward(self, hidden_states: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """Returns hidden_states, (B, S, E), as they are; position_ids (B or 1, S)."""
        return hidden_states

    def rotations(self, position_ids: torch.Tensor) -> Rotations:
        """For each layer type what to rotate queries and keys by; empty, unless positions are rotations."""
        return {}


class SinusoidalPositions(Positions):
    """Adds sin on even and cos on odd channels, at wavelengths from 2π to 10000·2π (Vaswani et al., 2017).

    Computed from the positions at hand, so there is no table and no longest text.
    """

    def forward(self, hidden_states: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """hidden_states (B, S, E), position_ids (B or 1, S)."""
        dtype = torch.promote_types(hidden_states.dtype, torch.float32)
        even = torch.arange(0, hidden_states.shape[-1], 2, device=hidden_states.device, dtype=dtype)
        angles = position_ids[..., None] * torch.exp(even * (-math.log(10000.0) / hidden_states.shape[-1]))
        waves = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)
        return hidden_states + waves.to(hidden_states.dtype)


class LearnedPositions(Positions):
    """Adds a trained vector for each of `max_position_embeddings` positions (Gehring et al., 2017).

    `position_offset` rows of the table come before the first position and are not used.
    """

    def __init__(self, config: SequenceEncoderConfig) -> None:
        super().__init__(config)
        self.offset = config.position_offset
        self.table = nn.Embedding(self.offset + config.max_position_embeddings, config.embedding_dim)

    def forward(self, hidden_states: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """hidden_states (B, S, E), position_ids (B or 1, S)."""
        return hidden_states + self.table(position_ids + self.offset)


class RotaryPositions(Positions):
    """Turns queries and keys by angles that grow with the position (Su et al., 2021); adds nothing."""

    def __init__(self, config: SequenceEncoderConfig) -> None:
        super().__init__(config)
        self.config = config

    def rotations(self, position_ids: torch.Tensor) -> Rotations:
        """For each layer type cosines and sines of the angles of all channels, (B or 1, S, head_dim) in float32.

        The sines of the first half are negated: a channel gets the cosine times itself and the sine times its partner.

        The frequencies are computed here and not kept: a buffer would be lost where models start on the meta device.
        """
        rotations = {}
        for layer_type, parameters in (self.config.rope_parameters or {}).items():
            compute = ROPE_INIT_FUNCTIONS.get(parameters["rope_type"], default_rope_frequencies)
            frequencies, attention_factor = compute(self.config, position_ids.device, layer_type=layer_type)
            angles = position_ids[..., None].float() * frequencies
            cos, sin = angles.cos() * attention_factor, angles.sin() * attention_factor
            rotations[layer_type] = (torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1))
        return rotations


def default_rope_frequencies(
    config: SequenceEncoderConfig, device: torch.device, layer_type: str
) -> tuple[torch.Tensor, float]:
    """θ^(-2i / head_dim) for the channel pairs i, (head_dim / 2,), and the factor 1: `rope_type="default"`."""
    assert config.rope_parameters is not None
    pairs = torch.arange(0, config.head_dim, 2, device=device, dtype=torch.float32)
    return config.rope_parameters[layer_type]["rope_theta"] ** (-pairs / config.head_dim), 1.0


POSITION_EMBEDDINGS: dict[str, type[Positions]] = {
    "sinusoidal": SinusoidalPositions,
    "learned": LearnedPositions,
    "rotary": RotaryPositions,
}


class InputEmbeddings(nn.Module):
    """What happens between the token vectors and the first layer: scale, segment types, positions, norm, dropout.

    With a projection at last, where the E channels of the embeddings are not the D of the layers (Lan et al., 2020).
    """

    def __init__(self, config: SequenceEncoderConfig) -> None:
        super().__init__()
        self.scale = math.sqrt(config.embedding_dim) if config.scale_embeddings else 1.0
        self.types = nn.Embedding(config.type_vocab_size, config.embedding_dim) if config.type_vocab_size else None
        self.positions = POSITION_EMBEDDINGS[config.position_embedding](config)
        self.norm = NORMS[config.norm](config, config.embedding_dim) if config.embedding_norm else nn.Identity()
        self.dropout = Dropout(config.embedding_dropout)
        narrow = config.embedding_dim != config.hidden_size
        self.projection = nn.Linear(config.embedding_dim, config.hidden_size) if narrow else nn.Identity()

    def forward(
        self, token_embeddings: torch.Tensor, token_type_ids: torch.Tensor | None, position_ids: torch.Tensor
    ) -> torch.Tensor:
        """token_embeddings (B, S, E), token_type_ids (B, S), position_ids (B or 1, S), to (B, S, D)."""
        hidden_states = token_embeddings * self.scale if self.scale != 1.0 else token_embeddings
        if self.types is not None:
            if token_type_ids is None:
                token_type_ids = torch.zeros_like(position_ids)
            hidden_states = hidden_states + self.types(token_type_ids)
        return self.projection(self.dropout(self.norm(self.positions(hidden_states, position_ids))))
