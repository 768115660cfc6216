"""What stands between the trunk and a projection: pooling of a text's tokens into one vector, and dense heads.

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
    """The first real token of each row, (B, S, D) to (B, D); `token_mask` is (B, S) bool, None for no padding."""
    if token_mask is None:
        return hidden_states[:, 0]
    rows = torch.arange(hidden_states.shape[0], device=hidden_states.device)
    return hidden_states[rows, token_mask.int().argmax(dim=1)]


def is_first_token(shape: tuple[int, int], token_mask: torch.Tensor | None, device: torch.device) -> torch.Tensor:
    """Which tokens `first_token` takes, (B, S) bool."""
    first = 0 if token_mask is None else token_mask.int().argmax(dim=1, keepdim=True)
    return (torch.arange(shape[1], device=device) == first).expand(shape)


def mean_of_tokens(hidden_states: torch.Tensor, token_mask: torch.Tensor | None) -> torch.Tensor:
    """The mean over the real tokens of each row, (B, S, D) to (B, D); zero for a row that is all padding."""
    if token_mask is None:
        return hidden_states.mean(dim=1)
    counts = token_mask.sum(dim=1, keepdim=True).clamp(min=1)
    # A sum over many tokens can be more than float16 holds.
    dtype = torch.promote_types(hidden_states.dtype, torch.float32)
    total = hidden_states.masked_fill(~token_mask[..., None], 0).sum(dim=1, dtype=dtype)
    return (total / counts).to(hidden_states.dtype)


POOLINGS: dict[str, Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]] = {
    "cls": first_token,
    "mean": mean_of_tokens,
}


class Pooler(nn.Module):
    """One vector for each text: the pooling of the configuration, then a dense layer if there is a `pooler_act`."""

    def __init__(self, config: SequenceEncoderConfig) -> None:
        super().__init__()
        self.pool = POOLINGS[config.pooling]
        self.dense: nn.Module = nn.Identity()
        self.act: nn.Module = nn.Identity()
        if config.pooler_act is not None:
            self.dense = nn.Linear(config.hidden_size, config.hidden_size)
            self.act = ACT2FN[config.pooler_act]

    def forward(self, hidden_states: torch.Tensor, token_mask: torch.Tensor | None) -> torch.Tensor:
        """hidden_states (B, S, D), token_mask (B, S) bool or None for no padding, to (B, D)."""
        return self.act(self.dense(self.pool(hidden_states, token_mask)))


class DenseHead(nn.Module):
    """Dense layer, activation and norm, as BERT has before its vocabulary projection."""

    def __init__(self, config: SequenceEncoderConfig, size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, size, bias=config.head_bias)
        self.act = ACT2FN[config.hidden_act]
        self.norm = NORMS[config.norm](config, size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(..., D) to (..., size)."""
        return self.norm(self.act(self.dense(hidden_states)))


# Each for a configuration and the channels that what comes after takes.
HEADS: dict[str, Callable[[SequenceEncoderConfig, int], nn.Module]] = {
    "linear": lambda config, size: nn.Identity(),
    "dense": DenseHead,
}


def text_vectors(outputs: BaseModelOutputWithPooling, model: nn.Module) -> torch.Tensor:
    """The (B, D) `pooler_output` that a model with one answer for each row needs.

    Raises:
        ValueError: if there is none, because a row holds several documents.
    """
    if outputs.pooler_output is None:
        raise ValueError(
            f"{type(model).__name__} gives one answer a row, but a row of this batch holds several documents "
            "(cu_seq_lens_q, or position_ids that restart); give it one text a row."
        )
    return outputs.pooler_output
