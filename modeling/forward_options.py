"""The keyword arguments that every model passes on to its encoder."""

# No `from __future__ import annotations` in the modules that use it: transformers reads the annotation of `kwargs` to
# learn what a model can give, and a string tells it nothing.

from typing import TypedDict

import torch


class ForwardOptions(TypedDict, total=False):
    """What else may be asked of a model, or said of a batch."""

    output_hidden_states: bool | None
    """Whether to give the input of every layer and the output of the last."""
    output_attentions: bool | None
    """Whether to give the attention weights of every layer."""
    return_dict: bool | None
    """Whether to give an object with names, or else a tuple."""
    num_items_in_batch: torch.Tensor | int | None
    """By what the loss is divided; by default by the number of its terms."""
    cu_seq_lens_q: torch.Tensor | None
    """(N + 1,) where the texts of a batch that comes packed in one row start and end."""
    cu_seq_lens_k: torch.Tensor | None
    """The same."""
    max_length_q: int | None
    """The length of the longest of them."""
    max_length_k: int | None
    """The same."""
    seq_idx: torch.Tensor | None
    """(B, S) the number of the text that each token is of; followed where nothing else says it."""
