"""Input embeddings: positions, segment types, and the norm, dropout and projection of their sum."""

import math

import torch
from torch import nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ..configuration.configuration_sequence_encoder import SequenceEncoderConfig
from .cpu.dropout import Dropout
from .norms import NORMS

Rotations = dict[str, tuple[torch.Tensor, torch.Tensor]]


class Positions(nn.Module):
    """Base class of positions, which add to the embeddings or rotate queries and keys. This class does neither."""

    def __init__(self, config: SequenceEncoderConfig) -> None:
        super().__init__()

    def forward(self, hidden_states: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """Add positions to the embeddings; the base class returns them unchanged.

        Args:
            hidden_states: (B, S, E).
            position_ids: (B or 1, S).
        """
        return hidden_states

    def rotations(self, position_ids: torch.Tensor) -> Rotations:
        """Return the rotations of queries and keys for each layer type; empty for positions that are not rotary."""
        return {}


class SinusoidalPositions(Positions):
    """Sinusoidal positions: sin on even and cos on odd channels, wavelengths 2π to 10000·2π (Vaswani et al., 2017).

    They are computed for the positions of each batch, so there is no table and no maximum length.
    """

    def forward(self, hidden_states: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """See `Positions`."""
        dtype = torch.promote_types(hidden_states.dtype, torch.float32)
        even = torch.arange(0, hidden_states.shape[-1], 2, device=hidden_states.device, dtype=dtype)
        angles = position_ids[..., None] * torch.exp(even * (-math.log(10000.0) / hidden_states.shape[-1]))
        waves = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)
        return hidden_states + waves.to(hidden_states.dtype)


class LearnedPositions(Positions):
    """Learned positions: a trained vector for each of `max_position_embeddings` positions (Gehring et al., 2017).

    The table starts with `position_offset` unused rows.
    """

    def __init__(self, config: SequenceEncoderConfig) -> None:
        super().__init__(config)
        self.offset = config.position_offset
        self.table = nn.Embedding(self.offset + config.max_position_embeddings, config.embedding_dim)

    def forward(self, hidden_states: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """See `Positions`."""
        return hidden_states + self.table(position_ids + self.offset)


class RotaryPositions(Positions):
    """Rotary positions: queries and keys are rotated by angles that grow with the position (Su et al., 2021)."""

    def __init__(self, config: SequenceEncoderConfig) -> None:
        super().__init__(config)
        self.config = config

    def rotations(self, position_ids: torch.Tensor) -> Rotations:
        """Return cosines and sines for each layer type, (B or 1, S, head_dim) each, in float32.

        Rotation multiplies each channel by the cosine and adds its partner times the sine, so the sines of the first
        half of the channels are negated.

        Frequencies are computed on every call, since a buffer would be lost if the model starts on the meta device.

        Args:
            position_ids: (B or 1, S).
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
    """Return the frequencies of `rope_type="default"`, θ^(-2i / head_dim) for channel pairs i, and the factor 1."""
    assert config.rope_parameters is not None
    pairs = torch.arange(0, config.head_dim, 2, device=device, dtype=torch.float32)
    # In the same order as in transformers, so that converted models have the same bits.
    return 1.0 / config.rope_parameters[layer_type]["rope_theta"] ** (pairs / config.head_dim), 1.0


POSITION_EMBEDDINGS: dict[str, type[Positions]] = {
    "none": Positions,
    "sinusoidal": SinusoidalPositions,
    "learned": LearnedPositions,
    "rotary": RotaryPositions,
}


class HiddenStateModule(nn.Module):
    """Base class of the modules whose outputs a model returns with `output_hidden_states=True`."""


class InputEmbeddings(HiddenStateModule):
    """The module between the token vectors and the first layer: scale, segment types, positions, norm and dropout.

    If the embeddings and the layers have different numbers of channels (E and D), a projection follows (Lan et al.,
    2020), or comes before the norm, as in DeBERTa.
    """

    def __init__(self, config: SequenceEncoderConfig) -> None:
        super().__init__()
        self.scale = math.sqrt(config.embedding_dim) if config.scale_embeddings else 1.0
        self.types = nn.Embedding(config.type_vocab_size, config.embedding_dim) if config.type_vocab_size else None
        tasks = config.task_type_vocab_size
        self.tasks = nn.Embedding(tasks, config.embedding_dim) if tasks else None
        self.positions = POSITION_EMBEDDINGS[config.position_embedding](config)
        self.projects_first = config.embedding_projection == "before_norm"
        size = config.hidden_size if self.projects_first else config.embedding_dim
        self.norm = NORMS[config.norm](config, size) if config.embedding_norm else nn.Identity()
        self.dropout = Dropout(config.embedding_dropout)
        # Not an Identity: peft's "all-linear" would match it by the names of other projections.
        self.projection: nn.Module | None = None
        if config.embedding_dim != config.hidden_size:
            self.projection = nn.Linear(config.embedding_dim, config.hidden_size, bias=not self.projects_first)

    def forward(
        self, token_embeddings: torch.Tensor, token_type_ids: torch.Tensor | None, position_ids: torch.Tensor
    ) -> torch.Tensor:
        """Compute the input of the first layer.

        Args:
            token_embeddings: (B, S, E).
            token_type_ids: (B, S); all 0 by default.
            position_ids: (B or 1, S).

        Returns:
            (B, S, D).
        """
        hidden_states = token_embeddings * self.scale if self.scale != 1.0 else token_embeddings
        if self.types is not None:
            if token_type_ids is None:
                token_type_ids = torch.zeros_like(position_ids)
            hidden_states = hidden_states + self.types(token_type_ids)
        if self.tasks is not None:
            hidden_states = hidden_states + self.tasks(position_ids.new_zeros(1))
        hidden_states = self.positions(hidden_states, position_ids)
        if self.projection is None:
            return self.dropout(self.norm(hidden_states))
        if self.projects_first:
            return self.dropout(self.norm(self.projection(hidden_states)))
        return self.projection(self.dropout(self.norm(hidden_states)))
