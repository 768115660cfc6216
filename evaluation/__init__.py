"""Calibration of models that have a head for a task."""

from __future__ import annotations

from ..command_line.lazy_exports import lazy_exports

_MODULES = {"CalibrationReport": "calibrating", "calibrate": "calibrating"}
__all__ = [*_MODULES]
__getattr__ = lazy_exports(__name__, _MODULES, "adapt", "sklearn")
