"""Masked fine-tuning (Madsen et al., 2023): the model learns from texts with masks, and so can read them later.

Explanations remove words by masks. A model that has never seen masks in fine-tuning may do anything with them.

Shapes: B texts of a batch, L tokens of a text.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ...command_line import UsageError


class RandomMasks:
    """Masks random tokens of half of the texts of each batch, as a transform of a `datasets.Dataset`.

    Each of these texts has its own rate, drawn uniformly from 0 to 1. Special tokens stay.

    Args:
        tokenizer: The tokenizer of the model.

    Raises:
        UsageError: If it has no mask token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if tokenizer.mask_token_id is None:
            raise UsageError("--masked_tuning needs a tokenizer with a mask token, which the one of --from lacks.")
        self.mask_id: Any = tokenizer.mask_token_id
        # A word that the vocabulary lacks is masked like others.
        self.kept = sorted({*tokenizer.all_special_ids} - {tokenizer.unk_token_id})

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Return the inputs of B texts, with masks in half of them; of a single text, with a chance of one half."""
        texts = [torch.tensor(ids) for ids in batch["input_ids"]]
        order = torch.randperm(len(texts))
        count = (len(texts) + int(torch.randint(2, ()))) // 2
        for index in order[:count].tolist():
            special = torch.isin(texts[index], torch.tensor(self.kept))
            masked = (torch.rand(len(texts[index])) < torch.rand(())) & ~special
            texts[index] = texts[index].masked_fill(masked, self.mask_id)
        return {**batch, "input_ids": [ids.tolist() for ids in texts]}
