"""The choice of the dtype of inference, by measuring on this machine."""

from __future__ import annotations

import time

import torch
from torch.nn import functional as F

from .linked_encoder import LinkedEncoder

# The batch to measure with: texts of a sentence to a paragraph.
_TEXTS, _LONGEST = 16, 128
_LEAST_COSINE = 0.999
_REPEATS = 3


def chosen_dtype(link: LinkedEncoder) -> torch.dtype | None:
    """Return bfloat16 if an encoder is faster in it and its vectors stay nearly the same, or else None.

    Args:
        link: The linked encoder, which this function measures on random tokens. Set its dtype afterwards.
    """
    model = link.encoder
    if model.dtype != torch.float32:
        return None
    generator = torch.Generator().manual_seed(0)
    lengths = torch.linspace(4, min(_LONGEST, model.config.max_position_embeddings - 8), _TEXTS).long()
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long().to(model.device)
    ids = torch.randint(5, model.config.vocab_size, mask.shape, generator=generator).to(model.device)
    inputs = {"input_ids": ids, "attention_mask": mask}
    seconds, vectors = [float("inf")] * 2, [torch.empty(0)] * 2
    with torch.no_grad():
        encoders = [link.in_dtype(dtype) for dtype in (None, torch.bfloat16)]
        for _ in range(_REPEATS):
            for index, encoder in enumerate(encoders):
                start = time.perf_counter()
                states = encoder(**inputs).last_hidden_state
                vectors[index] = states.float().sum(dim=1) / lengths[:, None].to(states.device)
                seconds[index] = min(seconds[index], time.perf_counter() - start)
    same = bool((F.cosine_similarity(vectors[0], vectors[1]).min() >= _LEAST_COSINE).item())
    return torch.bfloat16 if same and seconds[1] < seconds[0] else None
