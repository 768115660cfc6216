"""Pooling of the tokens of a text into one vector, and the dense heads before a projection.

Shapes: B batch, S sequence, D hidden.
"""

from collections.abc import Callable

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ..configuration.configuration_sequence_encoder import SequenceEncoderConfig
from .norms import NORMS


def first_token(hidden_states: torch.Tensor, token_mask: torch.Tensor | None) -> torch.Tensor:
    """Return the first real token of each row, (B, S, D) to (B, D).

    Args:
        hidden_states: (B, S, D).
        token_mask: (B, S) bool, False at padding; None if there is no padding.
    """
    if token_mask is None:
        return hidden_states[:, 0]
    rows = torch.arange(hidden_states.shape[0], device=hidden_states.device)
    return hidden_states[rows, token_mask.int().argmax(dim=1)]


def is_first_token(shape: tuple[int, int], token_mask: torch.Tensor | None, device: torch.device) -> torch.Tensor:
    """Return which tokens `first_token` selects, (B, S) bool."""
    first = 0 if token_mask is None else token_mask.int().argmax(dim=1, keepdim=True)
    return (torch.arange(shape[1], device=device) == first).expand(shape)


def mean_of_tokens(hidden_states: torch.Tensor, token_mask: torch.Tensor | None) -> torch.Tensor:
    """Return the mean over the real tokens of each row, (B, S, D) to (B, D); zero for a row of padding.

    Args:
        hidden_states: (B, S, D).
        token_mask: (B, S) bool, False at padding; None if there is no padding.
    """
    if token_mask is None:
        return hidden_states.mean(dim=1)
    counts = token_mask.sum(dim=1, keepdim=True).clamp(min=1)
    # A sum over many tokens can overflow float16.
    dtype = torch.promote_types(hidden_states.dtype, torch.float32)
    total = hidden_states.masked_fill(~token_mask[..., None], 0).sum(dim=1, dtype=dtype)
    return (total / counts).to(hidden_states.dtype)


POOLINGS: dict[str, Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]] = {
    "cls": first_token,
    "mean": mean_of_tokens,
}


class Pooler(nn.Module):
    """Computes one vector per text: the pooling of the configuration, then a dense layer if it has a `pooler_act`."""

    def __init__(self, config: SequenceEncoderConfig) -> None:
        super().__init__()
        self.pool = POOLINGS[config.pooling]
        self.dense: nn.Module = nn.Identity()
        self.act: nn.Module = nn.Identity()
        if config.pooler_act is not None:
            self.dense = nn.Linear(config.hidden_size, config.hidden_size)
            self.act = ACT2FN[config.pooler_act]

    def forward(self, hidden_states: torch.Tensor, token_mask: torch.Tensor | None) -> torch.Tensor:
        """Pool (B, S, D) into (B, D).

        Args:
            hidden_states: (B, S, D).
            token_mask: (B, S) bool, False at padding; None if there is no padding.
        """
        return self.act(self.dense(self.pool(hidden_states, token_mask)))


class DenseHead(nn.Module):
    """A dense layer with activation and norm, as in BERT before the vocabulary projection."""

    def __init__(self, config: SequenceEncoderConfig, size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, size, bias=config.head_bias)
        self.act = ACT2FN[config.hidden_act]
        self.norm = NORMS[config.norm](config, size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map (..., D) to (..., size)."""
        return self.norm(self.act(self.dense(hidden_states)))


# Each takes a configuration and the number of output channels.
HEADS: dict[str, Callable[[SequenceEncoderConfig, int], nn.Module]] = {
    "linear": lambda config, size: nn.Identity(),
    "dense": DenseHead,
}


def text_vectors(outputs: BaseModelOutputWithPooling, model: nn.Module) -> torch.Tensor:
    """Return the `pooler_output` (B, D), which models with one prediction per row need.

    Args:
        outputs: The outputs of the encoder.
        model: The model, for the error.

    Raises:
        ValueError: If it is None, because a row has several documents.
    """
    if outputs.pooler_output is None:
        raise ValueError(
            f"{type(model).__name__} makes one prediction per row, but a row of this batch has several documents "
            "(cu_seq_lens_q, or position_ids that restart); pass one text per row."
        )
    return outputs.pooler_output
