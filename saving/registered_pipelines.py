"""The pipelines that the package registers, and that `config.json` names for use without the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .code_bundle import MODELING

# By the class of the model: for each task, the pipeline and the Auto class of the model. Without a calibration, the
# pipelines of classifiers refuse the arguments that need one, where transformers' pipelines would ignore them.
REGISTERED_PIPELINES = {
    "SequenceEncoderForMaskedLM": {
        "infilling": ("InfillingPipeline", "AutoModelForMaskedLM"),
        "text-generation": ("ContinuationPipeline", "AutoModelForMaskedLM"),
    },
    "SequenceEncoderForSequenceClassification": {
        "text-classification": ("CalibratedTextClassificationPipeline", "AutoModelForSequenceClassification")
    },
    "SequenceEncoderForTokenClassification": {
        "token-classification": ("CalibratedTokenClassificationPipeline", "AutoModelForTokenClassification")
    },
}


def without_registered_pipelines(named: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of `custom_pipelines` in `config.json` without those of pipelines that the package registers.

    Args:
        named: The pipeline of each task.
    """
    ours = {f"{MODELING}.{name}" for pipelines in REGISTERED_PIPELINES.values() for name, _ in pipelines.values()}
    return {task: entry for task, entry in named.items() if not (isinstance(entry, dict) and entry.get("impl") in ours)}


def name_registered_pipeline(folder: Path, model_class: str) -> None:
    """Add the pipelines for the tasks of a model to `config.json` in its folder, unless it names others.

    Args:
        folder: The folder.
        model_class: The name of the class of the model.
    """
    if model_class not in REGISTERED_PIPELINES:
        return
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    entries = {
        task: {"impl": f"{MODELING}.{pipeline}", "pt": [auto_class], "type": "text"}
        for task, (pipeline, auto_class) in REGISTERED_PIPELINES[model_class].items()
    }
    config["custom_pipelines"] = {**entries, **config.get("custom_pipelines", {})}
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
