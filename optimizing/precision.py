"""The choice of the dtype of inference, by measuring on this machine."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch.nn import functional as F

from ..modeling.text_encoding.evaluation_mode import evaluation_mode
from .linked_encoder import LinkedEncoder

# The batch to measure with: texts of a sentence to a paragraph.
_TEXTS, _LONGEST = 16, 128
_LEAST_COSINE = 0.999
_REPEATS = 3


def chosen_dtype(model: Any) -> torch.dtype | None:
    """Return bfloat16 if a model is faster in it and its vectors stay nearly the same, or else None.

    Args:
        model: The encoder, of which copies are measured on random tokens.
    """
    if model.dtype != torch.float32:
        return None
    generator = torch.Generator().manual_seed(0)
    lengths = torch.linspace(4, min(_LONGEST, model.config.max_position_embeddings - 8), _TEXTS).long()
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long().to(model.device)
    ids = torch.randint(5, model.config.vocab_size, mask.shape, generator=generator).to(model.device)
    inputs = {"input_ids": ids, "attention_mask": mask}
    links = [LinkedEncoder(model, True, dtype) for dtype in (None, torch.bfloat16)]
    seconds, vectors = [float("inf")] * len(links), [torch.empty(0)] * len(links)
    with torch.no_grad(), evaluation_mode(model):
        for _ in range(_REPEATS):
            for index, link in enumerate(links):
                start = time.perf_counter()
                states = link.prepare(training=False)(**inputs).last_hidden_state
                vectors[index] = states.float().sum(dim=1) / lengths[:, None].to(states.device)
                seconds[index] = min(seconds[index], time.perf_counter() - start)
    same = bool((F.cosine_similarity(vectors[0], vectors[1]).min() >= _LEAST_COSINE).item())
    return torch.bfloat16 if same and seconds[1] < seconds[0] else None
