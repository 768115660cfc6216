"""The names of the files of a calibration, and the entries of `config.json` that name its pipelines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .code_bundle import INFILLING_PIPELINE, MODELING

CALIBRATION = "calibration.json"
CALIBRATION_TENSORS = "calibration.safetensors"
CALIBRATION_FILES = frozenset({CALIBRATION, CALIBRATION_TENSORS})
# Beside the model card, which shows it.
CALIBRATION_PICTURE = "reliability.png"

# By the class of the model: the task, the pipeline that uses a calibration, and the Auto class of the model. Without a
# calibration, it refuses the arguments that need one, where transformers' pipeline would ignore them.
CALIBRATED_PIPELINES = {
    "SequenceEncoderForSequenceClassification": (
        "text-classification",
        "CalibratedTextClassificationPipeline",
        "AutoModelForSequenceClassification",
    ),
    "SequenceEncoderForTokenClassification": (
        "token-classification",
        "CalibratedTokenClassificationPipeline",
        "AutoModelForTokenClassification",
    ),
}


def without_registered_pipelines(named: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of `custom_pipelines` in `config.json` without those of pipelines that the package registers.

    Args:
        named: The pipeline of each task.
    """
    registered = (INFILLING_PIPELINE, *(pipeline for _, pipeline, _ in CALIBRATED_PIPELINES.values()))
    ours = {f"{MODELING}.{pipeline}" for pipeline in registered}
    return {task: entry for task, entry in named.items() if not (isinstance(entry, dict) and entry.get("impl") in ours)}


def name_calibrated_pipeline(folder: Path, model_class: str) -> None:
    """Add the pipeline for the task of a model to `config.json` in its folder, unless it names another one.

    Args:
        folder: The folder.
        model_class: The name of the class of the model.
    """
    if model_class not in CALIBRATED_PIPELINES:
        return  # Its usual pipeline uses the calibration.
    task, pipeline, auto_class = CALIBRATED_PIPELINES[model_class]
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    entry = {"impl": f"{MODELING}.{pipeline}", "pt": [auto_class], "type": "text"}
    config["custom_pipelines"] = {task: entry, **config.get("custom_pipelines", {})}
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
