"""The keyword arguments that every model passes on to its encoder."""

# No `from __future__ import annotations` in modules that use `ForwardOptions`: transformers inspects the annotation of
# `kwargs` to find out which outputs a model has, and does not resolve strings.

from typing import Any, TypedDict

import torch


class ForwardOptions(TypedDict, total=False):
    """Keyword arguments that select outputs or describe a packed batch."""

    output_hidden_states: bool | None
    """Whether to return the input of every layer and the output of the last."""
    output_attentions: bool | None
    """Whether to return the attention weights of every layer."""
    return_dict: bool | None
    """Whether to return a `ModelOutput` instead of a tuple."""
    layer_vectors: Any
    """A `LayerVectors`, filled with a vector of each text after some layers, without padding."""
    num_items_in_batch: torch.Tensor | int | None
    """The divisor of the loss; by default the number of its terms."""
    cu_seq_lens_q: torch.Tensor | None
    """(N + 1,) cumulative lengths of the texts that the caller packed into one row."""
    cu_seq_lens_k: torch.Tensor | None
    """The same."""
    max_length_q: int | None
    """The length of the longest of these texts."""
    max_length_k: int | None
    """The same."""
    seq_idx: torch.Tensor | None
    """(B, S) index of the text of each token; used only without `cu_seq_lens_q` and `position_ids`."""
