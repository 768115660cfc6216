"""The names of the files of a calibration."""

from __future__ import annotations

CALIBRATION = "calibration.json"
CALIBRATION_TENSORS = "calibration.safetensors"
CALIBRATION_FILES = frozenset({CALIBRATION, CALIBRATION_TENSORS})
# Beside the model card, which shows it.
CALIBRATION_PICTURE = "reliability.png"
