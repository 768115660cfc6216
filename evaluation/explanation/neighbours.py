"""The training examples that are nearest to a text, by the vectors of the model.

Shapes: N texts, M examples, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from ...data.argument_checks import check_count
from .heads import without_wrapper


@dataclass(frozen=True)
class Neighbour:
    """A training example near a text.

    Attributes:
        text: The example.
        label: Its label, if labels were given.
        cosine: The cosine of its vector and that of the text.
    """

    text: str
    label: Any
    cosine: float


def nearest_examples(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    texts: str | Sequence[str],
    examples: Sequence[str],
    labels: Sequence[Any] | None = None,
    *,
    count: int = 3,
    vectors: Any = None,
) -> list[list[Neighbour]]:
    """Find the examples whose vectors are nearest to those of texts.

    After fine-tuning, texts for which a classifier says the same are near each other.

    Args:
        model: A model of this package, also in a `PeftModel`.
        tokenizer: Its tokenizer.
        texts: A text, or several.
        examples: The examples.
        labels: Their labels.
        count: The number of examples for each text.
        vectors: (M, D) vectors of the examples that `encode` of the same model has computed, to save the time.

    Returns:
        The nearest examples of each text, the nearest first.

    Raises:
        ValueError: If there are no examples, or numbers of texts differ.
    """
    check_count(count, "count")
    for name, given in (("examples", examples), ("labels", labels), ("vectors", vectors)):
        if given is not None and (not len(given) or len(given) != len(examples)):
            raise ValueError(f"{name} must have one item for each of at least one example, got {len(given)}.")
    model = without_wrapper(model)
    encoder = model.base_model
    # A head reads what its configuration pools.
    options = {"convert_to_tensor": True, "pooling": None if encoder is model else model.config.pooling}
    known = encoder.encode(list(examples), tokenizer, **options) if vectors is None else torch.as_tensor(vectors)
    asked = encoder.encode([texts] if isinstance(texts, str) else list(texts), tokenizer, **options)
    cosines = F.normalize(asked, dim=-1) @ F.normalize(known.to(asked), dim=-1).t()
    best = cosines.topk(min(count, len(examples)), dim=1)
    return [
        [
            Neighbour(examples[index], None if labels is None else labels[index], value)
            for value, index in zip(*row, strict=True)
        ]
        for row in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
