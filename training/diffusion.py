"""Masked diffusion: masks each text at its own rate, and evaluates the bound that this gives in a `Trainer`.

The loss of a text with masking rate t is the cross entropy of its masked tokens, weighted by 1 / t. Its expectation is
an upper bound on the negative log-likelihood of the text (MDLM, Sahoo et al., 2024; LLaDA, Nie et al., 2025).

Shapes: N texts, B texts of a batch, L tokens of a text, n masks, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ..modeling.heads.losses import cross_entropy_per_label
from ..modeling.heads.pretraining_heads import SequenceEncoderForMaskedLM
from ..modeling.label_checks import IGNORED
from .hub_trainer import HubTrainer

# Weights of 1 / t would otherwise be unbounded.
_LEAST_RATE = 1e-3
# The sums over a text that evaluations return, in this order.
SUMS = ("weighted_nats", "nats", "right", "masked")


def antithetic_rates(count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw masking rates (N,) from [0.001, 1] in random order that are evenly spaced, from a common random start.

    Each rate is uniform, but together they cover the interval, which reduces the variance of the loss (Kingma et al.,
    2021, appendix I.1).
    """
    uniform = rng.permutation((rng.random() + np.arange(count)) / count % 1)
    return _LEAST_RATE + (1 - _LEAST_RATE) * uniform


def mask_at_rate(
    ids: np.ndarray, maskable: np.ndarray, rate: float, mask: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Mask each of the maskable tokens (L,) with probability `rate`.

    Returns:
        (L,) ids with masks, and (L,) float32 weights of the labels: 1 / t at masks and 0 elsewhere.
    """
    chosen = maskable & (rng.random(len(ids)) < rate)
    weights = np.where(chosen, np.float32(1 / rate), np.float32(0))
    return np.where(chosen, mask, ids), weights


def mask_share(
    ids: np.ndarray, maskable: np.ndarray, share: float, mask: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Mask a fixed share of the maskable tokens (L,), rounded up to whole tokens.

    If `share` is uniform, so is the number of masks, and the weighted loss has the expectation that `mask_at_rate` with
    a uniform rate gives it, with a lower variance (LLaDA, Nie et al., 2025, appendix B.5).

    Returns:
        (L,) ids with masks, and (L,) float32 weights of the labels: one over the share of masks at masks, and 0
        elsewhere.
    """
    places = np.flatnonzero(maskable)
    # The product can exceed a whole number by a rounding error.
    count = max(1, math.ceil(share * len(places) - 1e-9))
    chosen = rng.choice(places, size=count, replace=False)
    masked, weights = ids.copy(), np.zeros(len(ids), dtype=np.float32)
    masked[chosen], weights[chosen] = mask, len(places) / count
    return masked, weights


def masked_sums(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, empty: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum the losses of the masked tokens of each text.

    Positions that stay empty count in the weighted loss only: they are easy, and any number of them may be.

    Args:
        logits: (n, V) logits of the masked tokens, text by text.
        labels: (B, L) labels of all tokens.
        weights: (B, L) weights of the labels, above 0 at masked tokens only.
        empty: The label of a position that stays empty.

    Returns:
        (B, 4) sums in the order of `SUMS`, and (B,) numbers of labels.
    """
    masked = weights > 0
    wanted = labels[masked]
    nats = cross_entropy_per_label(logits, wanted)
    text = (wanted != empty).to(nats)
    right = (logits.argmax(-1) == wanted) * text
    found = torch.stack([nats * weights[masked], nats * text, right, text], dim=1)
    sums = torch.zeros(len(labels), len(SUMS), dtype=found.dtype, device=found.device)
    counts = ((labels != IGNORED) & (labels != empty)).sum(dim=1)
    return sums.index_add(0, masked.nonzero()[:, 0], found), counts


class DiffusionTrainer(HubTrainer):
    """A `Trainer` whose evaluations only predict masked tokens, and return the results of `masked_sums`."""

    def __init__(self, model: Any = None, args: Any = None, **kwargs: Any) -> None:
        # `Trainer` removes other columns that are not named arguments of the model.
        args.label_names = ["labels", "label_weights"]
        super().__init__(model, args, **kwargs)

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Evaluate a batch, and return the loss and the results of `masked_sums`."""
        inputs = self._prepare_inputs(inputs)
        inner = next(part for part in model.modules() if isinstance(part, SequenceEncoderForMaskedLM))
        inner.predicts_labels_only = True
        try:
            with torch.no_grad(), self.compute_loss_context_manager():
                outputs = model(**inputs)
        finally:
            inner.predicts_labels_only = False
        if prediction_loss_only:
            return outputs.loss, None, None
        weights, tokenizer = inputs["label_weights"], cast("PreTrainedTokenizerBase", self.processing_class)
        # A compiled model predicts all tokens.
        logits = outputs.logits if outputs.logits.ndim == 2 else outputs.logits[weights > 0]
        found = masked_sums(logits, inputs["labels"], weights, tokenizer.pad_token_id)
        return outputs.loss, *found
