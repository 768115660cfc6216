"""Collects a vector of each text after chosen layers, while the encoder runs without padding.

Shapes: B batch, S sequence, T packed tokens, D hidden.
"""

from collections.abc import Iterable
from typing import Any

import torch

from ..packing import moved
from ..pooling import mean_of_tokens

# The output of an exported model with the vectors that its calibration needs.
LAYER_VECTORS = "layer_vectors"


class LayerVectors:
    """The mean over the tokens of each text after some layers, for the keyword `layer_vectors` of any model.

    ```python
    >>> vectors = LayerVectors([2])  # doctest: +SKIP
    >>> model(**batch, layer_vectors=vectors)  # doctest: +SKIP
    >>> vectors[2]  # doctest: +SKIP

    ```

    Unlike `output_hidden_states`, it does not need padding.

    Args:
        layers: 0 for the embeddings, 1 for the first layer, and so on.
    """

    def __init__(self, layers: Iterable[int]) -> None:
        self.layers = frozenset(layers)
        self._vectors: dict[int, torch.Tensor] = {}

    def __getitem__(self, layer: int) -> torch.Tensor:
        """Return the vectors (B, D) of the last batch after a layer."""
        return self._vectors[layer]

    def __setitem__(self, layer: int, vectors: torch.Tensor) -> None:
        """Set the vectors (B, D) of a batch after a layer."""
        self._vectors[layer] = vectors

    def add(self, layer: int, hidden_states: torch.Tensor, layout: Any) -> None:
        """Compute the vectors of texts after a layer, if it is one of the chosen.

        Args:
            layer: The layer.
            hidden_states: Its output.
            layout: The `Layout` of the batch.
        """
        if layer in self.layers:
            padded = layout.padded(hidden_states)
            self[layer] = mean_of_tokens(padded, moved(layout.token_mask, padded.device))
