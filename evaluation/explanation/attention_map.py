"""The attention of one layer as a picture.

Shapes: H heads, L tokens of a row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ...command_line.extras import require
from .attention import attention_weights
from .explaining import head_of
from .heads import without_wrapper
from .words import row_of

# The pictures of so many heads stand side by side.
_COLUMNS = 4
# In inches. In larger pictures, which some texts would need, not all tokens have names.
_LARGEST = 8.0


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """The attention weights of one layer for a text. A notebook shows them as a picture.

    Attributes:
        tokens: The L tokens.
        weights: (H, L, L), how much each token (row) reads of each other (column).
        layer: The number of the layer, from 0.
        heads: The numbers of the H heads.
    """

    tokens: tuple[str, ...]
    weights: torch.Tensor
    layer: int
    heads: tuple[int, ...]

    def save(self, file: str | Path) -> None:
        """Save the picture as PNG, SVG or PDF, by the ending of the file.

        Args:
            file: The file to write.
        """
        self._figure().savefig(file, dpi=150)

    def _repr_png_(self) -> bytes:
        import io

        content = io.BytesIO()
        self._figure().savefig(content, format="png", dpi=100)
        return content.getvalue()

    def _figure(self) -> Any:
        require("a picture", "matplotlib", extra="explain")
        from matplotlib.figure import Figure

        columns = min(_COLUMNS, len(self.heads))
        rows = -(-len(self.heads) // columns)
        needed = max(2.5, 0.13 * len(self.tokens))
        size = min(needed, _LARGEST)
        named = range(0, len(self.tokens), math.ceil(needed / size))
        figure = Figure(figsize=(size * columns + 0.5, size * rows + 0.5), layout="constrained")
        plots = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
        for plot, head, weights in zip(plots, self.heads, self.weights, strict=False):
            plot.imshow(weights.numpy(), cmap="Blues", vmin=0)
            plot.set_title(f"layer {self.layer}, head {head}", fontsize=8)
            labels = {"fontsize": 5, "parse_math": False}
            plot.set_xticks(named, [self.tokens[place] for place in named], rotation=90, **labels)
            plot.set_yticks(named, [self.tokens[place] for place in named], **labels)
        for plot in plots[len(self.heads) :]:
            plot.set_axis_off()
        return figure


def attention_of(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    text_pair: str | None = None,
    *,
    layer: int,
    heads: list[int] | None = None,
    max_length: int | None = None,
) -> AttentionMap:
    """Return the attention of one layer for a text, or for two texts that the model reads together.

    Only this layer computes its weights, from the input that it has on the fast path. `output_attentions=True` would
    compute those of all layers, with padding.

    Args:
        model: A model of this package, also in a `PeftModel`.
        tokenizer: Its tokenizer.
        text: The text.
        text_pair: The second text.
        layer: The number of the layer, from 0; or from the end, if it is negative.
        heads: The numbers of heads; by default all.
        max_length: The number of tokens to truncate to; by default that of the model.

    Raises:
        ValueError: If there is no such layer or head, or the attention implementation has no weights.
    """
    model = without_wrapper(model)
    head = head_of(model)(model, tokenizer, max_length)
    encoder = head.encoder
    depth, count = encoder.config.num_hidden_layers, encoder.config.num_attention_heads
    if not -depth <= layer < depth:
        raise ValueError(f"layer must be from {-depth} to {depth - 1}, got {layer}.")
    heads = list(range(count)) if heads is None else heads
    if not heads or not set(heads) <= {*range(count)}:
        raise ValueError(f"heads must be from 0 to {count - 1}, at least one, got {heads}.")
    if text_pair is None:
        (row,) = head.request((text,)).rows
    else:
        row, _ = row_of(head.tokenizer, [text, text_pair], head.max_length)
    layer %= depth
    weights = attention_weights(encoder, row, [layer])[layer]
    tokens = tuple(str(token) for token in tokenizer.convert_ids_to_tokens(list(row.ids)))
    return AttentionMap(tokens, weights[heads], layer, tuple(heads))
