"""The vectors of words and labels among those of the tokens, and the recurrent layers that read the words of a text.

Shapes: B texts, S tokens of a text, T tokens of all texts, N words of all texts, D channels.
"""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_sequence, unpack_sequence


def counts_of(numbers: torch.Tensor) -> list[int]:
    """Return the number of words of each text, from the number of the word of each token, (B, S)."""
    counts: list[int] = numbers.amax(dim=1).tolist()
    return counts


def numbered_together(numbers: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Number the words of all texts instead of those of each.

    Args:
        numbers: (B, S) number of the word that each token belongs to, from 1; 0 if it belongs to no word.
        counts: The number of words of each text.

    Returns:
        (B * S,).
    """
    offsets = torch.tensor([0, *counts[:-1]], device=numbers.device).cumsum(0)
    return torch.where(numbers > 0, numbers + offsets[:, None], 0).flatten()


def first_vectors(hidden_states: torch.Tensor, numbers: torch.Tensor, total: int) -> torch.Tensor:
    """Return the vector of the first token of each word, (N, D); 0 for words without tokens.

    Args:
        hidden_states: (T, D).
        numbers: (T,) number of the word that each token belongs to, from 1; 0 if it belongs to no word.
        total: N.
    """
    numbers = numbers.to(hidden_states.device)
    first = (numbers > 0) & (numbers != F.pad(numbers[:-1], (1, 0)))
    places = first.nonzero().squeeze(1)
    vectors = hidden_states.index_select(0, places)
    return hidden_states.new_zeros(total, hidden_states.shape[-1]).index_copy(0, numbers[places] - 1, vectors)


def recurrent(lstm: nn.LSTM, words: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Apply a bidirectional LSTM to the words of each text, (N, D) to (N, D)."""
    texts = [text for text in words.split(counts) if len(text)]
    if not texts:
        return words
    outputs, _ = lstm(pack_sequence(texts, enforce_sorted=False))
    return torch.cat(unpack_sequence(outputs))
