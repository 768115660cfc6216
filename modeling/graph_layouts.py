"""How the tokens of a batch lie in graphs that are exported or compiled.

Shapes: B batch, S padded length, T packed tokens, D hidden.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from .attention.graphs import GraphAttention
from .layouts import LayerInputs, PaddedLayout
from .packing import RealTokens


class GraphLayout(PaddedLayout):
    """The real tokens of a batch as one row (1, T), except in attention, for graphs."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        assert self.token_mask is not None
        self.real = RealTokens(self.token_mask)
        self.position_ids = self.real.pack(self.position_ids)

    def arrange(self, padded: torch.Tensor) -> torch.Tensor:
        """See `Layout`."""
        return self.real.pack(padded)

    def padded(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """See `Layout`."""
        return self.real.unpack(hidden_states)

    def layer_inputs(self, model: Any, hidden_states: torch.Tensor, kwargs: Mapping[str, Any]) -> LayerInputs:
        """See `Layout`."""
        masks, bias, options = super().layer_inputs(model, hidden_states, kwargs)
        return {}, bias, {**options, "attend": GraphAttention(self.real, dict(masks))}


class PlainLayout(PaddedLayout):
    """All tokens as they are, (B, S), without the operations that count or select them, for graphs on WebGPU.

    Padding is on either side of a text.
    """

    def __init__(self, model: Any, attention_mask: Any, token_mask: Any, *others: Any) -> None:
        first = token_mask.long().argmax(dim=1, keepdim=True)
        index = torch.arange(token_mask.shape[1], device=token_mask.device)
        pairs = token_mask[:, None, None, :].expand(-1, 1, token_mask.shape[1], -1)
        super().__init__(model, pairs, token_mask, (index - first).clamp(min=0), index == first, False)


@contextmanager
def layout_in_graphs(model: Any, layout: type[PaddedLayout]) -> Iterator[None]:
    """Lay out the tokens of graphs that are traced in this block.

    Args:
        model: The encoder.
        layout: `GraphLayout` leaves padding out, except in attention. Its sizes depend on values, which not all uses of
            `torch.export` and `torch.compile` support. `PlainLayout` needs the fewest operations.
    """
    before, model.padded_layout = model.padded_layout, layout
    try:
        yield
    finally:
        model.padded_layout = before
