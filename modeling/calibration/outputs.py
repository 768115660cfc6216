"""Runs a calibrated model, with the p-values of the texts, and checks the arguments that need such a model.

Shapes: B batch, N texts, C labels.
"""

from collections.abc import Sequence
from typing import Any

import torch

from .calibration import Calibration, check_coverage
from .layer_vectors import LAYER_VECTORS, LayerVectors


def with_p_values(model: Any, calibration: Calibration | None, **inputs: Any) -> tuple[Any, torch.Tensor | None]:
    """Run a model, and return its outputs and the p-values of the texts, (B,).

    The p-values are None if the calibration has no score of unfamiliar texts, or if the score is the energy and the
    model does not make one prediction per text.

    Args:
        model: The model.
        calibration: Its calibration, if it has one.
        **inputs: The inputs of the model.
    """
    vectors = vectors_for(model, calibration)
    if vectors is not None and calibration is not None:
        outputs = model(**inputs, return_dict=True, layer_vectors=vectors)
        return outputs, p_values_of(calibration, vectors)
    outputs = model(**inputs, return_dict=True)
    found = None if calibration is None else calibration.unfamiliarity
    if found is not None and found.layer is not None:
        # An exported model.
        return outputs, found.p_values(found.score(outputs[LAYER_VECTORS]))
    if found is None or "logits" not in outputs:
        return outputs, None
    return outputs, found.p_values(found.score(None, outputs.logits))


def vectors_for(model: Any, calibration: Calibration | None) -> LayerVectors | None:
    """Return what to pass to a model as `layer_vectors`, or None if no vectors are needed or given.

    Args:
        model: The model.
        calibration: Its calibration, if it has one.
    """
    found = None if calibration is None else calibration.unfamiliarity
    if found is None or found.layer is None or not isinstance(model, torch.nn.Module):
        return None
    return LayerVectors([found.layer])


def p_values_of(calibration: Calibration, vectors: LayerVectors) -> torch.Tensor:
    """Return the p-values (B,) of the texts of a batch, from the vectors of a layer."""
    found = calibration.unfamiliarity
    assert found is not None
    assert found.layer is not None
    return found.p_values(found.score(vectors[found.layer]))


def labels_in_sets(
    calibration: Calibration,
    probabilities: torch.Tensor,
    names: Sequence[str],
    coverage: float | None = None,
    refused: torch.Tensor | None = None,
) -> list[list[str]]:
    """Return the labels in the set of each text, the most likely first.

    Args:
        calibration: The calibration of the model, with sets.
        probabilities: (N, C) the calibrated probabilities.
        names: The names of the C labels.
        coverage: The share of true labels that the sets contain; by default that of the calibration.
        refused: (N,) bool, True for texts without an answer, whose sets have all labels.
    """
    assert calibration.sets is not None
    inside = calibration.sets.contain(probabilities, coverage, calibration.task == "multi-label")
    if refused is not None:
        inside = inside | refused[:, None]
    order = probabilities.argsort(dim=-1, descending=True, stable=True)
    inside = inside.gather(-1, order)
    rows = zip(order.tolist(), inside.tolist(), strict=True)
    return [[names[index] for index, kept in zip(*row, strict=True) if kept] for row in rows]


def check_refusal(
    calibration: Calibration | None, coverage: float | None = None, abstain_below: float | None = None
) -> None:
    """Check the arguments of a pipeline that need a calibrated model.

    Args:
        calibration: The calibration of the model.
        coverage: The share of true labels that the sets contain.
        abstain_below: The p-value below which there is no answer.

    Raises:
        ValueError: If one of them is not between 0 and 1, or the model is not calibrated for it.
    """
    if calibration is None:
        refuse_uncalibrated(coverage, abstain_below)
        return
    if abstain_below is not None and calibration.unfamiliarity is None:
        raise ValueError(
            f"abstain_below={abstain_below!r} needs p-values, and this model has none. If an earlier version exported "
            "it, export it again; otherwise, leave the argument out."
        )
    if coverage is not None and calibration.sets is not None:
        check_coverage("coverage", coverage, calibration.sets.texts)
    if abstain_below is not None:
        number = isinstance(abstain_below, int | float) and not isinstance(abstain_below, bool)
        if not number or not 0 <= abstain_below <= 1:
            raise ValueError(f"abstain_below must be a p-value between 0 and 1, such as 0.05, got {abstain_below!r}.")


def refuse_uncalibrated(coverage: float | None = None, abstain_below: float | None = None) -> None:
    """Refuse the arguments of a pipeline that need a calibrated model.

    Args:
        coverage: Must be None.
        abstain_below: Must be None.

    Raises:
        ValueError: If one of them is not.
    """
    for name, value in (("coverage", coverage), ("abstain_below", abstain_below)):
        if value is not None:
            raise ValueError(
                f"{name}={value!r} needs a calibrated model, and this one has no calibration. Calibrate it with "
                "`sequence-encoder calibrate MODEL --calibration_file … --output_dir …`, or leave the argument out."
            )
