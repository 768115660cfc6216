"""Chooses the method of scaling by cross-validation.

Shapes: N texts, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ...command_line.progress import Progress, counted_by
from .scaling import (
    Loss,
    Scaling,
    fit_adaptive,
    fit_temperature,
    fit_vector,
)

FOLDS = 5
Fit = Callable[[torch.Tensor, torch.Tensor, Loss], Scaling]
FITS: dict[str, Fit] = {"temperature": fit_temperature, "adaptive": fit_adaptive, "vector": fit_vector}
# The methods that never change which class is most likely.
KEEP_PREDICTIONS = ("temperature", "adaptive")


def folds_of(texts: int, seed: int = 0) -> torch.Tensor:
    """Assign texts to folds at random, (N,), with almost the same number of texts in each."""
    order = torch.randperm(texts, generator=torch.Generator().manual_seed(seed))
    folds = torch.empty(texts, dtype=torch.long)
    folds[order] = torch.arange(texts) % min(FOLDS, texts)
    return folds


def cross_scaled(
    method: str,
    logits: torch.Tensor,
    targets: torch.Tensor,
    loss: Loss,
    folds: torch.Tensor,
) -> torch.Tensor:
    """Scale the logits of each fold by a scaling that was fitted on the other folds, with a method of `FITS`."""
    scaled, each_fold = torch.empty_like(logits), folds.unique()
    for fold in counted_by(Progress(f"Fitting the scaling, {method}", len(each_fold), "fold"), each_fold):
        held_out = folds == fold
        scaled[held_out] = FITS[method](logits[~held_out], targets[~held_out], loss)(logits[held_out])
    return scaled


def choose_scaling(
    logits: torch.Tensor,
    targets: torch.Tensor,
    loss: Loss,
    hits: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    folds: torch.Tensor,
    methods: Sequence[str] = tuple(FITS),
) -> tuple[Scaling, torch.Tensor]:
    """Return the best scaling of some methods, and the cross-scaled logits.

    A method replaces those before it if it lowers the loss of held-out texts. One that can change which class is most
    likely must lower it by more than twice the standard error of the difference, and must not make more mistakes.

    Args:
        logits: (N, C).
        targets: (N,) or (N, C).
        loss: `single_label_loss` or `multi_label_loss`.
        hits: Returns how right each text is (N,), from logits and targets.
        folds: (N,) the fold of each text.
        methods: Some of `FITS`, in that order.
    """
    chosen = methods[0]
    best = cross_scaled(chosen, logits, targets, loss, folds)
    for method in methods[1:]:
        scaled = cross_scaled(method, logits, targets, loss, folds)
        gain = (loss(best, targets) - loss(scaled, targets)).double()
        needed = 0.0
        if method not in KEEP_PREDICTIONS:
            if hits(scaled, targets).sum() < hits(best, targets).sum():
                continue
            needed = 2 * float(gain.std()) / len(gain) ** 0.5
        if gain.mean() > needed:
            chosen, best = method, scaled
    return FITS[chosen](logits, targets, loss), best
