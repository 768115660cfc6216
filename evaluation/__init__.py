"""Calibration of models that have a head for a task, and their evaluation on texts that have shifted."""

from __future__ import annotations

from ..command_line.lazy_exports import lazy_exports

_MODULES = {
    "CalibrationReport": "calibration.calibrating",
    "Evaluation": "evaluating",
    "calibrate": "calibration.calibrating",
    "correct_label_shift": "label_correction",
    "evaluate": "evaluating",
    "match_label_shares": "label_correction",
}
__all__ = [*_MODULES]
__getattr__ = lazy_exports(__name__, _MODULES, "adapt", "sklearn")
