"""Masked fine-tuning (Madsen et al., 2023): the model learns from texts with masks, and so can read them later.

Explanations remove words by masks. A model that has never seen masks in fine-tuning may do anything with them.

Shapes: B texts of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from ...command_line import UsageError


class RandomMasks:
    """Masks random tokens of half of the texts of each batch, for `Draws`.

    Each of these texts has its own rate, drawn uniformly from 0 to 1. Special tokens stay.

    Args:
        tokenizer: The tokenizer of the model.

    Raises:
        UsageError: If it has no mask token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if tokenizer.mask_token_id is None:
            raise UsageError("--masked_tuning needs a tokenizer with a mask token, and the model's tokenizer has none.")
        self.mask_id: Any = tokenizer.mask_token_id
        # A word that the vocabulary lacks is masked like others.
        self.kept = sorted({*tokenizer.all_special_ids} - {tokenizer.unk_token_id})

    def __call__(self, batch: Mapping[str, Any], rng: np.random.Generator) -> list[dict[str, Any]]:
        """Return B examples, with masks in half of them; for a single one, with a chance of one half."""
        rows = [dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True)]
        count = (len(rows) + int(rng.integers(2))) // 2
        for index in rng.permutation(len(rows))[:count]:
            ids = np.asarray(rows[index]["input_ids"])
            masked = (rng.random(len(ids)) < rng.random()) & ~np.isin(ids, self.kept)
            rows[index]["input_ids"] = np.where(masked, self.mask_id, ids).tolist()
        return rows
