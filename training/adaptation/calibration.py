"""Calibrates the model of an adaptation on examples that it was not trained on."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
import transformers

from ...command_line import UsageError
from ...evaluation.calibration.arguments import CALIBRATED_TASKS, COVERAGES
from ...evaluation.calibration.calibrating import (
    CalibrationReport,
    calibrate_encoded,
    check_examples,
    encoded_rows,
)
from ...evaluation.calibration.choice_of_scaling import KEEP_PREDICTIONS
from .examples.cross_validation import LEAST_TO_CHOOSE, out_of_fold
from .report import Results

# With fewer examples, calibration is not the default: the noise of the calibration outweighs what it corrects. Models
# that learn from few examples are overconfident, so that less is enough if the examples are also those of the training.
_LEAST_EXAMPLES, _LEAST_CROSS_VALIDATED = 200, 100
# Prompts are not a part of the model.
_TUNINGS = ("auto", "full", "head", "adapter", "lora", "dora", "ia3")


def calibration_split(setup: Any) -> str | None:
    """Return the split to calibrate on, or None if the run does not calibrate.

    Raises:
        UsageError: If the user asks for a calibration that is not possible.
    """
    run, rows, cross_validated = setup.run, setup.rows, bool(setup.folds)
    given = "calibration" in rows
    least = _LEAST_CROSS_VALIDATED if cross_validated else _LEAST_EXAMPLES
    split = "calibration" if given else "validation"
    asked = run.args.calibrate == "yes" or given
    if run.data.lacks_labels and not given:
        if run.args.calibrate == "yes":
            raise UsageError("--calibrate yes needs a --calibration_file, because no other example has a label.")
        return None
    if run.args.calibrate == "no":
        if given:
            raise UsageError("--calibration_file has no effect with --calibrate no; leave one of them out.")
        return None
    if run.model.task not in CALIBRATED_TASKS or (len(rows[split]) < least and not asked):
        return None
    try:
        if run.model.tuning not in _TUNINGS:
            raise UsageError(f"--tuning must be one of {', '.join(_TUNINGS)} for a calibration, got {run.model.tuning}")
        if cross_validated and not given and (count := len(rows[split])) < LEAST_TO_CHOOSE:
            raise UsageError(
                f"--calibrate yes needs at least {LEAST_TO_CHOOSE} training examples or a --calibration_file, got "
                f"{count} examples."
            )
        check_examples(run.model.task, setup.task, rows[split], COVERAGES, split)
    except UsageError as error:
        if asked:
            raise UsageError(f"the model cannot be calibrated on the {split} examples: {error}") from error
        print(f"The model will not be calibrated on the {split} examples: {error}")
        return None
    return split


def check_calibrated_model(setup: Any, split: str | None) -> str | None:
    """Return the split to calibrate on, or None if the encoder is of a family that cannot be calibrated.

    Raises:
        UsageError: If the user asks for a calibration that is not possible.
    """
    if split is None or not setup.is_other_family:
        return split
    run = setup.run
    reason = f"{run.model.model} cannot be converted to a model of this package"
    if run.args.calibrate == "yes" or split == "calibration":
        raise UsageError(f"the model cannot be calibrated on the {split} examples: {reason}.")
    print(f"The model will not be calibrated, because {reason}.")
    return None


def calibrate_model(setup: Any, split: str, folder: Path, results: Results) -> CalibrationReport:
    """Calibrate the model in a folder, and save it there again."""
    model = getattr(transformers, setup.task.auto_class).from_pretrained(folder).to(setup.run.args.device)
    rows, task = encoded_rows(setup.task, setup.rows[split], setup.encoded[split]), setup.run.model.task
    logits = None
    if split in setup.cross_validated:
        args = copy.deepcopy(setup.run.args)
        args.seed = results.best.seed
        # All folds are finished, so that nothing is trained.
        logits = torch.from_numpy(out_of_fold(setup.run, setup, args, results.tuning).of(results.tuning)).float()
    # The results of the run already report its predictions.
    options: dict[str, Any] = {"methods": KEEP_PREDICTIONS, "max_length": setup.max_length, "logits": logits}
    report = calibrate_encoded(model, setup.tokenizer, task, rows, **options)
    model.save_pretrained(folder)
    return report
