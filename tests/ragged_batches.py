"""Ragged batches, and what models compute of them without their padding."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

Batch = dict[str, torch.Tensor]


def ragged(model: PreTrainedModel, rows: int = 6, length: int = 60) -> Batch:
    """Return a batch with padding after the texts of all rows but the first."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, model.config.vocab_size - 3, (rows, length), generator=generator)
    mask = (torch.arange(length) < torch.linspace(length, 3, rows)[:, None]).long()
    return {"input_ids": ids.masked_fill(mask == 0, model.config.pad_token_id or 0), "attention_mask": mask}


def states(model: Any, batch: Batch, **options: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch, **options)[0].float()


def leaves_out_padding(model: Any, batch: Batch) -> bool:
    """Return whether the vectors at padding are zero, which only encoders that do not compute them return."""
    return not states(model, batch)[batch["attention_mask"] == 0].any()


def assert_same(model: Any, original: Any, batch: Batch, atol: float = 1e-5, **options: Any) -> None:
    real = batch["attention_mask"] != 0
    found, expected = (states(each, batch, **options)[real] for each in (model, original))
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)
