"""Pads the inputs of texts to a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.nn.utils.rnn import pad_sequence


def padded_inputs(rows: Sequence[Mapping[str, Sequence[int]]], pad_token_id: int | None) -> dict[str, torch.Tensor]:
    """Return the inputs of texts (B, S), which all have the same names, padded on the right, and their attention mask.

    Without an id of padding, it is 0.
    """
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    inputs = {
        name: pad_sequence(
            [torch.tensor(row[name]) for row in rows], True, (pad_token_id or 0) if name == "input_ids" else 0
        )
        for name in rows[0]
    }
    mask = torch.arange(inputs["input_ids"].shape[1]) < lengths[:, None]
    return {**inputs, "attention_mask": mask.long()}
