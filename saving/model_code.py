"""Completes the code in the folder of a model, which its configuration alone has written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .calibration_files import CALIBRATION
from .registered_pipelines import name_pipelines
from .saved_code import write_code


def complete_code(folder: Path, config: Any) -> None:
    """Add the code of a calibration to a folder that has one, and the names of pipelines to its `config.json`.

    Args:
        folder: The folder of a saved model.
        config: Its configuration.
    """
    calibrated = (folder / CALIBRATION).is_file()
    if calibrated:
        write_code(folder, config, calibrated)
    name_pipelines(folder, config, calibrated)
