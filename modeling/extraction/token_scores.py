"""Scores of words as starts, ends and insides of entities, as in GLiNER's models with `span_mode="token_level"`.

The hidden layer reads the concatenation of a vector of a word, one of a label, and a product of both. Its parts for a
word and for a label are computed once for each, so that only the product is computed for every pair.

Shapes: W words of a text, C labels, D channels.
"""

from bisect import bisect_left

import torch
from torch import nn

from ..cpu.dropout import Dropout
from ..cpu.linear import fused_linear

# Number of pairs of a word and a label to compute at a time.
_PAIRS = 1024


class TokenScorer(nn.Module):
    """Scores each word as the start, the end and the inside of an entity with each label.

    Args:
        channels: Number of channels of the vectors of words and labels.
        dropout: Dropout probability.
    """

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.word = nn.Linear(channels, 2 * channels)
        self.label = nn.Linear(channels, 2 * channels)
        self.word_proj = nn.Linear(channels, 4 * channels)
        self.label_proj = nn.Linear(channels, 4 * channels, bias=False)
        self.product_proj = nn.Linear(channels, 4 * channels, bias=False)
        self.dropout = Dropout(dropout)
        self.out_proj = nn.Linear(4 * channels, 3)

    def forward(
        self, words: torch.Tensor, labels: torch.Tensor, num_words: list[int], num_labels: list[int]
    ) -> list[torch.Tensor]:
        """Score the words of several texts. For the arguments, see `SpanScorer.forward`.

        Returns:
            (W, C, 3) for each text.
        """
        of_words, of_labels = self._words(words), self._labels(labels)
        parts = zip(
            zip(*(each.split(num_words) for each in of_words), strict=True),
            zip(*(each.split(num_labels) for each in of_labels), strict=True),
            strict=True,
        )
        scores = []
        for (hidden, factor), label in parts:
            rows = max(1, _PAIRS // max(1, len(label[0])))
            blocks = zip(hidden.split(rows), factor.split(rows), strict=True)
            found = [self._scores(block, label) for block in blocks]
            scores.append(torch.cat(found) if found else words.new_zeros(0, len(label[0]), 3))
        return scores

    def targets(self, scores: torch.Tensor, entities: list[list[int]]) -> torch.Tensor:
        """Return zeros and ones for the scores of a text, (W, C, 3). For the entities, see `SpanScorer.targets`."""
        targets = torch.zeros(scores.shape, device=scores.device)
        for first, last, label in entities:
            targets[first, label, 0] = targets[last, label, 1] = 1
            targets[first : last + 1, label, 2] = 1
        return targets

    def spans(self, scores: torch.Tensor, threshold: float) -> list[tuple[int, int, int, float]]:
        """Return the spans whose start, end and words all have probabilities above a threshold, which the least is.

        Args:
            scores: (W, C, 3) probabilities.
            threshold: The threshold.
        """
        starts, ends, inside = scores.unbind(dim=-1)
        columns = inside.t().tolist()
        lasts = sorted((label, word) for word, label in (ends > threshold).nonzero().tolist())
        found = []
        for first, label in (starts > threshold).nonzero().tolist():
            lowest, reached = float(starts[first, label]), first
            for kind, last in lasts[bisect_left(lasts, (label, first)) :]:
                words = columns[label][reached : last + 1]
                if kind != label or min(words, default=1.0) < threshold:
                    break
                lowest, reached = min([lowest, *words]), last + 1
                found.append((first, last, label, min(lowest, float(ends[last, label]))))
        return found

    def _words(self, words: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        own, factor = fused_linear(self.word, words).chunk(2, dim=-1)
        return fused_linear(self.word_proj, own), factor

    def _labels(self, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        own, factor = self.label(labels).chunk(2, dim=-1)
        return self.label_proj(own), factor

    def _scores(
        self, words: tuple[torch.Tensor, torch.Tensor], labels: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        products = words[1].unsqueeze(-2) * labels[1].unsqueeze(-3)
        hidden = fused_linear(self.product_proj, products)
        hidden = hidden + words[0].unsqueeze(-2) + labels[0].unsqueeze(-3)
        scores: torch.Tensor = self.out_proj(self.dropout(hidden.relu()))
        return scores
