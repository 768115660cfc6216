"""Fits and selects the score that detects unfamiliar texts.

Shapes: N texts, C classes, D hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional as F

from ...command_line.progress import Progress, counted_by
from ...modeling.calibration.calibration import Unfamiliarity
from ..metrics import auroc

# More neighbours would make the files large, without telling more.
_MOST_NEIGHBOURS = 2000
# More layers and classes would take long to compare, without telling more.
_MOST_LAYERS, _MOST_CLASSES = 9, 10
# A class with fewer texts says too little when it is held out.
_LEAST_HELD_OUT = 10
# How much better than the default a score must tell other texts, since it is chosen among many.
_MARGIN = 0.01


@dataclass(frozen=True)
class Known:
    """What the model computes for texts.

    Attributes:
        vectors: (N, D) the mean of the tokens of each text after each layer.
        logits: (N, C), calibrated; None for models without one prediction per text.
        classes: (N,) the class of each text; None if texts do not have one class each.
    """

    vectors: Mapping[int, torch.Tensor]
    logits: torch.Tensor | None = None
    classes: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(next(iter(self.vectors.values())))

    def select(self, chosen: torch.Tensor) -> Known:
        """Return what is known about some texts, by a mask or indices."""
        logits, classes = (None if each is None else each[chosen] for each in (self.logits, self.classes))
        return Known({layer: each[chosen] for layer, each in self.vectors.items()}, logits, classes)


def default_kind(layers: int) -> tuple[str, int]:
    """Return the score that tells other topics well without any other texts: one of two thirds of the layers.

    The first layers know words, and the last ones only what the task needs.

    Args:
        layers: The number of layers.
    """
    return "mahalanobis", round(2 * layers / 3)


def layers_to_compare(layers: int) -> list[int]:
    """Return the layers to compare, including the embeddings, the last layer and the default layer."""
    step = max(1, -(-layers // (_MOST_LAYERS - 1)))
    return sorted({*range(0, layers, step), layers, default_kind(layers)[1]})


def fit_score(kind: str, layer: int | None, known: Known) -> Unfamiliarity:
    """Fit a score to texts, without the scores of the calibration texts that p-values need.

    Args:
        kind: `mahalanobis` (Lee et al., 2018), `neighbours` (Sun et al., 2022) or `energy` (Liu et al., 2020).
        layer: The layer, None for `energy`.
        known: The texts.
    """
    nothing = torch.zeros(0)
    if kind == "energy" or layer is None:
        return Unfamiliarity("energy", nothing)
    vectors = known.vectors[layer].float()
    if kind == "neighbours":
        step = -(-len(vectors) // _MOST_NEIGHBOURS)
        neighbours = F.normalize(vectors, dim=-1)[::step]
        return Unfamiliarity(kind, nothing, layer, neighbours=neighbours, k=min(5, len(neighbours)))
    from sklearn.covariance import ledoit_wolf

    classes = torch.zeros(len(vectors), dtype=torch.long) if known.classes is None else known.classes
    _, classes = classes.unique(return_inverse=True)
    means = torch.stack([vectors[classes == each].mean(0) for each in range(int(classes.max()) + 1)])
    covariance, _ = ledoit_wolf((vectors - means[classes]).double().numpy(), assume_centered=True)
    values, directions = torch.linalg.eigh(torch.as_tensor(covariance))
    # Directions in which the texts do not differ at all, as with a single text, do not count infinitely.
    values = values.clamp(min=1e-6 * float(values.max().clamp(min=1e-6)))
    return Unfamiliarity(kind, nothing, layer, means=means, whitening=(directions * values.rsqrt()).float())


def score_of(found: Unfamiliarity, texts: Known) -> torch.Tensor:
    """Return the scores of texts, (N,)."""
    return found.score(None if found.layer is None else texts.vectors[found.layer], texts.logits)


def cross_scores(kind: str, layer: int | None, known: Known, folds: torch.Tensor) -> torch.Tensor:
    """Return the scores of texts (N,), each by a score that was fitted to the other folds."""
    scores, each_fold = torch.empty(len(known)), folds.unique()
    for fold in counted_by(Progress("Fitting the score of unfamiliarity", len(each_fold), "fold"), each_fold):
        held_out = folds == fold
        scores[held_out] = score_of(fit_score(kind, layer, known.select(~held_out)), known.select(held_out))
    return scores


def choose_score(
    known: Known, folds: torch.Tensor, layers: int, away: Known | None = None
) -> tuple[Unfamiliarity, dict[str, Any]]:
    """Fit the score that tells other texts best, and say on which texts it was chosen.

    With texts from elsewhere, they decide. Otherwise, with at least three classes, each class is held out in turn, and
    the classes decide. Otherwise, it is the default.

    Args:
        known: The calibration texts.
        folds: (N,) the fold of each text.
        layers: The number of layers of the model.
        away: Texts from elsewhere.
    """
    default = default_kind(layers)
    candidates: list[tuple[str, int | None]] = [
        (kind, layer) for layer in known.vectors for kind in ("mahalanobis", "neighbours")
    ]
    if known.logits is not None:
        candidates.append(("energy", None))
    compared = counted_by(Progress("Choosing the score of unfamiliarity", len(candidates), "score"), candidates)
    aurocs: dict[tuple[str, int | None], float] = {}
    if away is not None:
        chosen_on = "other texts"
        aurocs = {each: _auroc_of(each, known, folds, away) for each in compared}
    elif (classes := known.classes) is not None and (held_out := _classes_to_hold_out(classes)):
        chosen_on = "held-out classes"
        for each in compared:
            found = []
            for index in held_out:
                inside = classes == index
                found.append(_auroc_of(each, known.select(~inside), folds[~inside], known.select(inside)))
            aurocs[each] = sum(found) / len(found)
    else:
        chosen_on = "default"
    chosen = max(aurocs, key=lambda each: aurocs[each] + (_MARGIN if each == default else 0), default=default)
    scores = cross_scores(*chosen, known, folds)
    fitted = replace(fit_score(*chosen, known), scores=scores.sort().values)
    facts: dict[str, Any] = {"chosen_on": chosen_on}
    if aurocs:
        facts |= {"auroc": round(aurocs[chosen], 4), "auroc_of_default": round(aurocs[default], 4)}
    return fitted, facts


def _classes_to_hold_out(classes: torch.Tensor) -> list[int]:
    """Return the classes with the most texts, if there are at least three with enough texts."""
    counts = torch.bincount(classes)
    often = [index for index in counts.argsort(descending=True).tolist() if counts[index] >= _LEAST_HELD_OUT]
    return often[:_MOST_CLASSES] if len(often) >= 3 else []


def _auroc_of(candidate: tuple[str, int | None], known: Known, folds: torch.Tensor, away: Known) -> float:
    """Return how well a score that was fitted to some of the folds tells the other folds from other texts."""
    fitted = fit_score(*candidate, known.select(folds % 2 == 0))
    return auroc(score_of(fitted, known.select(folds % 2 == 1)).numpy(), score_of(fitted, away).numpy())
