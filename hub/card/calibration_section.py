"""Describes a calibration: for the console, and for the model card."""

from __future__ import annotations

import math
from typing import Any

from ...modeling.calibration.calibration import Calibration
from ...saving.calibration_files import CALIBRATION_PICTURE

_NAMES = {
    "accuracy": "accuracy",
    "mean_confidence": "mean confidence",
    "expected_calibration_error": "expected calibration error",
    "answer_brier_score": "Brier score of the answer",
}
_SCORES = {
    "mahalanobis": "the Mahalanobis distance to the nearest class",
    "neighbours": "the distance to the nearest known texts",
    "energy": "the energy of the logits",
}
# What the sets contain.
NOUNS = {"ner": "kinds of entities", "qa": "answers"}
_CHOSEN = {
    "default": "the default, which needs no other texts",
    "held-out classes": "chosen on held-out classes",
    "other texts": "chosen on texts from elsewhere",
}


def summary_of(calibration: Calibration) -> list[str]:
    """Return lines for the console: the metrics before and after, the sets, and the score of unfamiliar texts."""
    metrics = calibration.facts["metrics"]
    width = max(map(len, _NAMES.values()))
    lines = [f"{'':{width}}  before  after"]
    for name, title in _NAMES.items():
        lines.append(f"{title:{width}}  {metrics['before'][name]:.4f}  {metrics['after'][name]:.4f}")
    return [*lines, *_sentences(calibration)]


def card_section(calibration: Calibration, with_picture: bool = False) -> str:
    """Return a section of the model card in Markdown.

    Args:
        calibration: The calibration.
        with_picture: Whether the folder has the reliability diagram.
    """
    metrics = calibration.facts["metrics"]
    rows = [f"| {title} | {metrics['before'][name]} | {metrics['after'][name]} |" for name, title in _NAMES.items()]
    picture = f"\n![Reliability diagram before and after calibration]({CALIBRATION_PICTURE})\n" if with_picture else ""
    sentences = "\n".join(f"- {sentence}" for sentence in _sentences(calibration))
    return f"""## Calibration

The scores of this model are calibrated on {calibration.facts["texts"]:,} examples that it was not trained on.

| on texts that the scaling was not fitted to | before | after |
|---|---|---|
{chr(10).join(rows)}
{picture}
{sentences}
- The promises hold for texts like the calibration examples. For other texts, they do not.
"""


def _sentences(calibration: Calibration) -> list[str]:
    scaling, noun, sentences = calibration.scaling, NOUNS.get(calibration.task, "labels"), []
    if "earlier_scaling" in calibration.facts:
        method = calibration.facts["earlier_scaling"]["method"]
        sentences.append(f"This scaling is applied on top of that of an earlier calibration ({method}).")
    if scaling["method"] == "temperature":
        sentences.append(f"The logits are divided by a temperature of {scaling['temperature']:.4g}.")
    elif scaling["method"] == "adaptive":
        sure, unsure = (_temperature(scaling, entropy) for entropy in scaling["log_entropy_range"])
        sentences.append(
            f"The logits of each text are divided by its own temperature, from {sure:.4g} (most confident) to "
            f"{unsure:.4g} (least confident)."
        )
    elif scaling["method"] == "affine":
        sentences.append(
            f"The logits of all spans are multiplied by {scaling['scale']:.4g}, and {scaling['offset']:.4g} is added."
        )
    else:
        sentences.append("The logits of each label have their own scale and offset.")
    for asked, found in calibration.facts["sets_on_held_out_texts"].items():
        sentences.append(
            f"Sets for a coverage of {float(asked):.0%} contain {found['coverage']:.1%} of the true {noun}, with "
            f"{found['mean_size']:.2f} {noun} on average."
        )
    if (score := calibration.unfamiliarity) is not None:
        chosen = calibration.facts["choice_of_unfamiliarity"]
        where = "" if score.layer is None else f" after layer {score.layer}"
        quality = f" (AUROC {chosen['auroc']:.3f})" if "auroc" in chosen else ""
        name = _SCORES[score.kind]
        if score.means is not None and len(score.means) == 1:
            name = "the Mahalanobis distance to the mean of the examples"
        sentences.append(f"The score of unfamiliar texts is {name}{where}, {_CHOSEN[chosen['chosen_on']]}{quality}.")
    return sentences


def _temperature(scaling: dict[str, Any], log_entropy: float) -> float:
    value = scaling["temperature_weight"] * log_entropy + scaling["temperature_bias"]
    # The softplus, without an overflow.
    return float(max(value, 0) + math.log1p(math.exp(-abs(value))))
