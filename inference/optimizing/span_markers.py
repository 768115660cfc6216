"""Speeds up the span representations of GLiNER (Zaratiana et al., 2024), which then have no vectors of spans.

A span marker projects the concatenation of a first and a last word, and GLiNER multiplies the result by the vectors of
labels. As in `modeling/extraction/span_scores.py`, each word and each label is multiplied once instead of once for each
span. GLiNER's own code runs between the two, so what the marker returns waits for the product with the labels.

Shapes: B texts, L words of the longest text, N words of all texts, K widths of spans, D and F channels, C labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only
from transformers.utils.import_utils import is_tracing

from ...modeling.extraction.span_scores import span_products

_MARKERS = ("SpanMarker", "SpanMarkerV0")
_PROJECTION = [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
# How GLiNER multiplies spans by labels.
_PRODUCT = "BLKD,BCD->BLKC"
# What torch answers without the values.
_ABOUT = {
    torch.Tensor.size,
    torch.Tensor.dim,
    *(getattr(torch.Tensor, x).__get__ for x in ("shape", "dtype", "device")),
}


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
        (B, L, K, D). In evaluation mode, its values are computed when they are used.
    """
    if is_tracing(h):
        # A graph has neither tensors without values, nor as many words as a batch happens to have.
        original: torch.Tensor = type(marker).forward(marker, h, span_idx)
        return original
    first, channels = marker.out_project[0], h.shape[-1]
    # The words of a text end with the last word of its spans.
    counts = span_idx[..., 1].amax(dim=1) + 1
    words = h[torch.arange(h.shape[1], device=h.device) < counts[:, None]]
    starts = nn.functional.linear(marker.project_start(words).relu(), first.weight[:, :channels], first.bias)
    ends = nn.functional.linear(marker.project_end(words).relu(), first.weight[:, channels:])
    spans = SpanVectors(marker, starts, ends, counts, span_idx)
    return spans.values() if marker.training else spans


class SpanVectors(torch.Tensor):
    """The vectors of spans, (B, L, K, D), which are not computed for a product with labels.

    Args:
        marker: The span marker.
        starts: (N, F) what each word of all texts adds to the hidden layer of the spans that it starts.
        ends: (N, F) what it adds to those that it ends.
        counts: (B,) the number of words of each text.
        span_idx: See `forward`.
    """

    @staticmethod
    def __new__(
        cls, marker: Any, starts: torch.Tensor, ends: torch.Tensor, counts: torch.Tensor, span_idx: torch.Tensor
    ) -> SpanVectors:
        """Return a tensor of the right shape without values."""
        texts, channels = len(span_idx), marker.out_project[3].out_features
        shape = (texts, span_idx.shape[1] // marker.max_width, marker.max_width, channels)
        # It has no memory for values.
        return starts.new_empty(1).expand(shape).as_subclass(cls)

    def __init__(
        self, marker: Any, starts: torch.Tensor, ends: torch.Tensor, counts: torch.Tensor, span_idx: torch.Tensor
    ) -> None:
        with torch._C.DisableTorchFunctionSubclass():
            self.__dict__.update(marker=marker, parts=(starts, ends, counts, span_idx))

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of torch, for which the values are computed unless it is the product with labels."""
        if function in _ABOUT:
            with torch._C.DisableTorchFunctionSubclass():
                return function(*args, **(kwargs or {}))
        if function is torch.einsum and args[0] == _PRODUCT and isinstance(args[1], cls):
            found = args[1]._product(args[2])
            if found is not None:
                return found
        args, kwargs = tree_map_only(SpanVectors, lambda spans: spans.values(), (args, kwargs or {}))
        return function(*args, **kwargs)

    def values(self) -> torch.Tensor:
        """Return the vectors."""
        marker, (starts, ends, counts, span_idx) = self.__dict__["marker"], self.__dict__["parts"]
        _, act, dropout, last = marker.out_project
        places = span_idx + (counts.cumsum(0) - counts)[:, None, None]
        vectors = last(dropout(act(starts[places[..., 0]] + ends[places[..., 1]])))
        return vectors.view(len(span_idx), -1, marker.max_width, vectors.shape[-1])

    def _product(self, labels: torch.Tensor) -> torch.Tensor | None:
        """Return the product with labels, (B, C, D) to (B, L, K, C); None if spans are not those of a GLiNER."""
        marker, (starts, ends, counts, span_idx) = self.__dict__["marker"], self.__dict__["parts"]
        width = marker.max_width
        words = torch.arange(span_idx.shape[1] // width, device=span_idx.device).repeat_interleave(width)
        lasts = words + torch.arange(width, device=span_idx.device).repeat(len(words) // width)
        real = span_idx.any(dim=-1)
        real[:, :1] = True
        usual = torch.stack([words, lasts], dim=-1) * real[..., None]
        if not torch.equal(usual, span_idx):
            return None
        last = marker.out_project[3]
        weights, bias = labels @ last.weight, labels @ last.bias
        sizes = counts.tolist()
        scores = starts.new_empty(len(sizes), len(words) // width, width, labels.shape[1])
        for text, (first, final) in enumerate(zip(starts.split(sizes), ends.split(sizes), strict=True)):
            scores[text, : sizes[text]] = span_products(first, final, weights[text], width)
            # GLiNER replaces spans that reach beyond a text by (0, 0).
            scores[text].flatten(0, 1)[~real[text]] = scores[text, 0, 0].clone()
        return scores + bias[:, None, None]
