"""Pooling: one vector for each text, from the vectors of its tokens.

The poolings have the names of sentence-transformers. Each takes hidden states (B, S, D) and a token mask (B, S), which
is False at padding, or None if there is no padding, and returns (B, D). Poolings that compute, rather than select a
token, return at least float32, because sums over many tokens can overflow float16. They give zeros for a row without
tokens.

Shapes: B batch, S sequence, D hidden.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from transformers.activations import ACT2FN

from ..configuration.configuration_sequence_encoder import SequenceEncoderConfig
from .cpu.dropout import Dropout

Mask = torch.Tensor | None


def first_index(token_mask: torch.Tensor) -> torch.Tensor:
    """Return the index of the first token of each row, (B, S) bool to (B,); 0 for a row without tokens."""
    return token_mask.int().argmax(dim=1)


def last_index(token_mask: torch.Tensor) -> torch.Tensor:
    """Return the index of the last token of each row, (B, S) bool to (B,); S - 1 for a row without tokens."""
    return token_mask.shape[1] - 1 - token_mask.flip(1).int().argmax(dim=1)


# The poolings that select a single token, with the function that returns its index.
SELECTED_TOKENS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"cls": first_index, "lasttoken": last_index}


def first_token(hidden_states: torch.Tensor, token_mask: Mask) -> torch.Tensor:
    """Return the first token of each row."""
    if token_mask is None:
        return hidden_states[:, 0]
    return hidden_states[torch.arange(hidden_states.shape[0], device=hidden_states.device), first_index(token_mask)]


def last_token(hidden_states: torch.Tensor, token_mask: Mask) -> torch.Tensor:
    """Return the last token of each row."""
    if token_mask is None:
        return hidden_states[:, -1]
    return hidden_states[torch.arange(hidden_states.shape[0], device=hidden_states.device), last_index(token_mask)]


def _filled(hidden_states: torch.Tensor, token_mask: Mask, value: float) -> torch.Tensor:
    """Return the hidden states in at least float32, with `value` at padding."""
    hidden_states = hidden_states.to(torch.promote_types(hidden_states.dtype, torch.float32))
    return hidden_states if token_mask is None else hidden_states.masked_fill(~token_mask[..., None], value)


def _counts(hidden_states: torch.Tensor, token_mask: Mask) -> torch.Tensor | int:
    """Return the number of tokens of each row, (B, 1), and at least 1."""
    return hidden_states.shape[1] if token_mask is None else token_mask.sum(dim=1, keepdim=True).clamp(min=1)


def mean_of_tokens(hidden_states: torch.Tensor, token_mask: Mask) -> torch.Tensor:
    """Return the mean over the tokens of each row."""
    return _filled(hidden_states, token_mask, 0).sum(dim=1) / _counts(hidden_states, token_mask)


def mean_by_square_root(hidden_states: torch.Tensor, token_mask: Mask) -> torch.Tensor:
    """Return the sum over the tokens of each row, divided by the square root of their number."""
    return _filled(hidden_states, token_mask, 0).sum(dim=1) / _counts(hidden_states, token_mask) ** 0.5


def mean_by_position(hidden_states: torch.Tensor, token_mask: Mask) -> torch.Tensor:
    """Return the mean over the tokens of each row, weighted by their positions from 1 to S (Muennighoff, 2022)."""
    tokens = _filled(hidden_states, token_mask, 0)
    weights = torch.arange(1, tokens.shape[1] + 1, device=tokens.device, dtype=tokens.dtype)[None]
    weights = weights if token_mask is None else weights * token_mask
    return (tokens * weights[..., None]).sum(dim=1) / weights.sum(dim=1, keepdim=True).clamp(min=1)


def maximum_of_tokens(hidden_states: torch.Tensor, token_mask: Mask) -> torch.Tensor:
    """Return the maximum over the tokens of each row."""
    maximum = _filled(hidden_states, token_mask, -torch.inf).amax(dim=1)
    return maximum if token_mask is None else maximum.masked_fill(~token_mask.any(dim=1, keepdim=True), 0)


POOLINGS: dict[str, Callable[[torch.Tensor, Mask], torch.Tensor]] = {
    "mean": mean_of_tokens,
    "cls": first_token,
    "max": maximum_of_tokens,
    "mean_sqrt_len_tokens": mean_by_square_root,
    "weightedmean": mean_by_position,
    "lasttoken": last_token,
}
# The poolings that a configuration may have. `encode` takes all.
CONFIGURABLE_POOLINGS = ("cls", "mean")


def check_pooling(pooling: str, allowed: Sequence[str] = tuple(POOLINGS)) -> None:
    """Check the name of a pooling.

    Args:
        pooling: The name.
        allowed: The names to allow.

    Raises:
        ValueError: If the name is not allowed.
    """
    if pooling not in allowed:
        raise ValueError(f"pooling must be one of {', '.join(map(repr, allowed))}, got {pooling!r}.")


class Pooler(nn.Module):
    """Computes one vector per text: the pooling of the configuration, and a dense layer if it has a `pooler_act`.

    By `config.pooler_placement`, the layer follows the pooling or transforms each token before it. Dropout comes before
    the layer.
    """

    def __init__(self, config: SequenceEncoderConfig) -> None:
        super().__init__()
        self.pool = POOLINGS[config.pooling]
        self.selected = SELECTED_TOKENS.get(config.pooling)
        self.before = config.pooler_placement == "before"
        self.dropout = Dropout(config.pooler_dropout)
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
        if self.before:
            tokens = self.act(self.dense(self.dropout(hidden_states)))
            return self.pool(tokens, token_mask).to(tokens.dtype)
        pooled = self.pool(hidden_states, token_mask).to(hidden_states.dtype)
        return self.act(self.dense(self.dropout(pooled)))

    def tokens_read(
        self, shape: tuple[int, int], token_mask: torch.Tensor | None, device: torch.device
    ) -> torch.Tensor | None:
        """Return which tokens the pooling reads, (B, S) bool; None if it reads all."""
        if self.selected is None:
            return None
        mask = torch.ones(shape, dtype=torch.bool, device=device) if token_mask is None else token_mask
        return torch.arange(shape[1], device=device) == self.selected(mask)[:, None]
