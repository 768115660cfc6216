"""What the folder of a model holds beside its weights: each part reads and writes its own files.

The code in a saved folder has the parts of its model alone.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..saving.saved_code import complete_code
from .calibration.calibration import calibration_of, read_calibration
from .quantized.eight_bit_quantizer import quantize_if_asked, write_without_quantization
from .static_files import write_static_files
from .text_encoding.recipe_files import read_recipe, write_recipe_of


def _read_calibration(model: Any, name: str | os.PathLike[str], options: dict[str, Any]) -> None:
    if not model._keeps_logit_calibration():
        model.config.logit_calibration = None
    if model.base_model is not model:
        model.calibration = read_calibration(name, **options)
        model.calibration = calibration_of(model)


def _write_calibration(model: Any, folder: Path, there: Path) -> None:
    if (calibration := calibration_of(model)) is not None:
        calibration.write(folder)


def _read_recipe(model: Any, name: str | os.PathLike[str], options: dict[str, Any]) -> None:
    model.base_model.embedding_recipe = read_recipe(name, **options)


def _write_code(model: Any, folder: Path, there: Path) -> None:
    complete_code(folder, model.config)


# Called with a model that was loaded, the folder or Hub id, and the arguments of `from_pretrained`.
READERS: dict[str, Callable[[Any, str | os.PathLike[str], dict[str, Any]], None]] = {
    "calibration": _read_calibration,
    "recipe": _read_recipe,
    "eight_bits": quantize_if_asked,
}
# Called in this order with a model, the folder to write into, and the folder that the files are moved to.
WRITERS: dict[str, Callable[[Any, Path, Path], None]] = {
    "eight_bits": write_without_quantization,
    "calibration": _write_calibration,
    "recipe": write_recipe_of,
    "table": write_static_files,
    "code": _write_code,
}
