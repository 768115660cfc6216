"""Scores of spans for labels, as GLiNER's `markerV0` defines them, without the vectors of spans.

GLiNER (Zaratiana et al., 2024, https://arxiv.org/abs/2311.08526) projects the concatenation of a span's first and last
word, W₂ relu(W₁ [f; l] + b₁) + b₂, and multiplies it by the vector v of a label. Here, W₁ f and W₁ l are computed once
for each word, and W₂ᵀ v once for each label, so that a span only costs the sum of two vectors and products with labels.

Shapes: W words of a text, C labels, K widths of spans, D channels, F = 4 D inner channels.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..cpu.dropout import Dropout
from ..cpu.eligibility import is_eager_on_cpu
from ..cpu.linear import fused_linear
from .projection import Projection

# Sums of this many numbers stay in the cache of a core.
_BLOCK = 2**17


class SpanScorer(nn.Module):
    """Scores all spans up to a width for all labels.

    Args:
        channels: Number of channels of the vectors of words and labels.
        max_width: The largest number of words of a span.
        dropout: Dropout probability. All spans of a text share the mask of a label.
    """

    def __init__(self, channels: int, max_width: int, dropout: float) -> None:
        super().__init__()
        self.max_width = max_width
        self.first_word = Projection(channels, dropout)
        self.last_word = Projection(channels, dropout)
        self.label = Projection(channels, dropout)
        self.first_proj = nn.Linear(channels, 4 * channels)
        self.last_proj = nn.Linear(channels, 4 * channels, bias=False)
        self.dropout = Dropout(dropout)
        self.out_proj = nn.Linear(4 * channels, channels)

    def forward(
        self, words: torch.Tensor, labels: torch.Tensor, num_words: list[int], num_labels: list[int]
    ) -> list[torch.Tensor]:
        """Score the spans of several texts.

        Args:
            words: The vectors of the words of all texts, (sum of W, D).
            labels: The vectors of the labels of all texts, (sum of C, D).
            num_words: W of each text.
            num_labels: C of each text.

        Returns:
            (W, K, C) for each text: the logits of the spans that start at a word, in ascending order of width. Those
            of spans beyond the end of the text are the lowest number of the dtype.
        """
        first, last = self._words(words)
        weights, bias = self._labels(labels)
        parts = zip(
            *(each.split(num_words) for each in (first, last)),
            *(each.split(num_labels) for each in (weights, bias)),
            strict=True,
        )
        return [span_products(a, b, label, self.max_width) + offset for a, b, label, offset in parts]

    def targets(self, scores: torch.Tensor, entities: list[list[int]]) -> torch.Tensor:
        """Return zeros and ones for the scores of a text.

        Args:
            scores: (W, K, C).
            entities: The first word, the last word and the label of each entity. Wider ones than K words are left out.
        """
        targets = torch.zeros(scores.shape, device=scores.device)
        spans = [(first, last - first, label) for first, last, label in entities if last - first < self.max_width]
        if spans:
            targets[tuple(torch.tensor(spans, device=scores.device).t())] = 1
        return targets

    def spans(self, scores: torch.Tensor, threshold: float) -> list[tuple[int, int, int, float]]:
        """Return the first word, the last word, the label and the probability of the spans above a threshold."""
        found = (scores > threshold).nonzero()
        probabilities = scores[tuple(found.t())].tolist()
        return [(a, a + w, c, p) for (a, w, c), p in zip(found.tolist(), probabilities, strict=True)]

    def _words(self, words: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first = fused_linear(self.first_proj, self.first_word(words).relu())
        return first, fused_linear(self.last_proj, self.last_word(words).relu())

    def _labels(self, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        vectors = self.label(labels)
        return self.dropout(vectors @ self.out_proj.weight), vectors @ self.out_proj.bias


def span_products(first: torch.Tensor, last: torch.Tensor, labels: torch.Tensor, max_width: int) -> torch.Tensor:
    """Compute relu(first + last) · labels for all spans of a text.

    Args:
        first: (W, F) what the first word of a span adds.
        last: (W, F) what its last word adds.
        labels: (C, F).
        max_width: K.

    Returns:
        (W, K, C), the lowest number of the dtype for spans beyond the last word.
    """
    if is_eager_on_cpu(first, last, labels):
        return _SpanProducts.apply(first, last, labels, max_width)
    return _span_products_at_once(first, last, labels, max_width)


def _span_products_at_once(
    first: torch.Tensor, last: torch.Tensor, labels: torch.Tensor, max_width: int
) -> torch.Tensor:
    """Compute the same with all spans in memory, which suits accelerators and compilers."""
    # One row of padding more than the widest span needs, since a text may have no words.
    ends = F.pad(last, (0, 0, 0, max_width)).unfold(0, max_width, 1)[: len(last)].transpose(1, 2)
    scores = (first[:, None] + ends).relu() @ labels.t()
    words = torch.arange(len(first), device=first.device)
    beyond = words[:, None] + torch.arange(max_width, device=first.device) >= len(first)
    return scores.masked_fill(beyond[..., None], torch.finfo(scores.dtype).min)


class _SpanProducts(torch.autograd.Function):
    """The same on a CPU: a block of words and a width at a time, and nothing of a span is kept."""

    @staticmethod
    def forward(
        ctx: Any, first: torch.Tensor, last: torch.Tensor, labels: torch.Tensor, max_width: int
    ) -> torch.Tensor:
        ctx.save_for_backward(first, last, labels)
        ctx.max_width = max_width
        scores = first.new_full((len(first), max_width, len(labels)), torch.finfo(first.dtype).min)
        weights = labels.t()
        for start, width, size, sums in _sums(first, last, max_width):
            torch.mm(sums, weights, out=scores[start : start + size, width])
        return scores

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        first, last, labels = ctx.saved_tensors
        of_first, of_last, of_labels = (torch.zeros_like(each) for each in (first, last, labels))
        for start, width, size, sums in _sums(first, last, ctx.max_width):
            part = gradient[start : start + size, width]
            of_labels.addmm_(part.t(), sums)
            of_sums = (part @ labels).mul_(sums > 0)
            of_first[start : start + size] += of_sums
            of_last[start + width : start + width + size] += of_sums
        return of_first, of_last, of_labels, None


def _sums(first: torch.Tensor, last: torch.Tensor, max_width: int) -> Any:
    """Yield the first word of a block, a width less 1, the number of its spans, and their relu(first + last)."""
    words, channels = first.shape
    block = max(8, _BLOCK // channels)
    buffer = first.new_empty(min(block, words), channels)
    for start in range(0, words, block):
        for width in range(min(max_width, words - start)):
            size = min(block, words - start - width)
            ends = last[start + width : start + width + size]
            yield start, width, size, torch.add(first[start : start + size], ends, out=buffer[:size]).relu_()
