"""Speeds up the span representations of GLiNER (Zaratiana et al., 2024): no word is projected twice, and no padding.

A span marker projects the concatenation of a start and an end: relu(W₁ [s; e] + b₁), and then W₂. The first product is
the sum of a product of the start and one of the end, so each word is multiplied once instead of once for each span.

Shapes: B texts, L words, K widths of spans, D channels, N spans that differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import MethodType
from typing import Any

import torch
from torch import nn

_MARKERS = ("SpanMarker", "SpanMarkerV0")
_PROJECTION = [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]


def span_markers_in(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the span markers inside a module with their paths."""
    for path, each in module.named_modules():
        projection = getattr(each, "out_project", None)
        if type(each).__name__ in _MARKERS and [type(part) for part in projection or ()] == _PROJECTION:
            yield path, each


def optimize_span_marker(marker: Any) -> None:
    """Let a span marker compute each word once, in place. Its outputs stay the same."""
    marker.forward = MethodType(forward, marker)


# Pickle stores this method by its name, so an unpickled marker has the forward of its class again.
def forward(marker: Any, h: torch.Tensor, span_idx: torch.Tensor) -> torch.Tensor:
    """Compute the representations of spans.

    Args:
        marker: The span marker.
        h: (B, L, D) the words.
        span_idx: (B, L·K, 2) the first and the last word of each span; both 0 for spans that reach beyond the text.

    Returns:
        (B, L, K, D).
    """
    first, act, dropout, last = marker.out_project
    channels = h.shape[-1]
    starts = nn.functional.linear(marker.project_start(h).relu(), first.weight[:, :channels], first.bias)
    ends = nn.functional.linear(marker.project_end(h).relu(), first.weight[:, channels:])
    if marker.training:
        spans = torch.arange(span_idx.shape[0] * span_idx.shape[1], device=h.device).view(span_idx.shape[:2])
    else:
        # GLiNER replaces spans that reach beyond a text by (0, 0), so they share the vector of its first word.
        real = span_idx.any(dim=-1)
        real[:, 0] = True
        numbers = real.flatten().cumsum(0).view(real.shape) - 1
        spans = torch.where(real, numbers, numbers[:, :1])
    texts = torch.arange(len(h), device=h.device)[:, None].expand(spans.shape)
    chosen = span_idx.new_zeros(int(spans.max()) + 1, 3) if spans.numel() else span_idx.new_zeros(0, 3)
    chosen[spans.flatten()] = torch.cat([texts[..., None], span_idx], dim=-1).flatten(0, 1)
    hidden = starts[chosen[:, 0], chosen[:, 1]] + ends[chosen[:, 0], chosen[:, 2]]
    vectors = last(dropout(act(hidden)))[spans]
    return vectors.view(len(h), -1, marker.max_width, vectors.shape[-1])
