"""The pipelines that the package registers, and that `config.json` names for use without the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .auto_classes import saved_class
from .code_bundle import MODELING

# By the class of the model: for each task, the pipeline and the Auto class of the model.
_PIPELINES = {
    "SequenceEncoderForMaskedLM": {
        "infilling": ("InfillingPipeline", "AutoModelForMaskedLM"),
        "text-generation": ("ContinuationPipeline", "AutoModelForMaskedLM"),
    },
    "SequenceEncoderForSequenceClassification": {
        "text-classification": ("{}TextClassificationPipeline", "AutoModelForSequenceClassification")
    },
    "SequenceEncoderForTokenClassification": {
        "token-classification": ("{}TokenClassificationPipeline", "AutoModelForTokenClassification")
    },
    "SequenceEncoderForZeroShotClassification": {
        "zero-shot-classification": ("PromptedZeroShotClassificationPipeline", "AutoModelForSequenceClassification")
    },
    "SequenceEncoderForSpanExtraction": {"zero-shot-entities": ("ZeroShotEntitiesPipeline", "AutoModel")},
    "SequenceEncoderForQuestionAnswering": {
        "question-answering": ("QuestionAnsweringPipeline", "AutoModelForQuestionAnswering")
    },
}
# Without a calibration, the pipelines of classifiers refuse the arguments that need one, where transformers' pipelines
# would ignore them.
_KINDS = {True: "Calibrated", False: "Uncalibrated"}
# Transformers has no such task.
_NOT_REGISTERED = {"question-answering"}


def pipelines_in_folder(config: Any, calibrated: bool) -> dict[str, tuple[str, str]]:
    """Return the pipelines that are saved with a model: for each task, the class and the Auto class of the model.

    Args:
        config: The configuration of the model.
        calibrated: Whether the model has a calibration.
    """
    saved = saved_class(config)
    pipelines = {} if saved is None else _PIPELINES.get(saved.name, {})
    return {task: (name.format(_KINDS[calibrated]), auto_class) for task, (name, auto_class) in pipelines.items()}


def own_task(name: str) -> str | None:
    """Return the task of the pipeline that is saved with a class of models, the first if there are several, or None."""
    return next(iter(_PIPELINES.get(name, ())), None)


def custom_pipelines(config: Any) -> dict[str, Any]:
    """Return the `custom_pipelines` of a configuration: ours that are not registered, and those of others.

    Args:
        config: The configuration. Entries of its current `custom_pipelines` for other pipelines are kept.
    """
    entries = _entries(config, calibrated=False)
    ours = {task: entry for task, entry in entries.items() if task in _NOT_REGISTERED}
    return without_our_pipelines(getattr(config, "custom_pipelines", None)) | ours


def name_pipelines(folder: Path, config: Any, calibrated: bool) -> None:
    """Add the pipelines for the tasks of a model to `config.json` in its folder, unless it names others.

    Args:
        folder: The folder.
        config: The configuration of the model.
        calibrated: Whether the model has a calibration.
    """
    if not (ours := _entries(config, calibrated)):
        return
    file = folder / "config.json"
    fields = json.loads(file.read_text(encoding="utf-8"))
    fields["custom_pipelines"] = {**ours, **fields.get("custom_pipelines", {})}
    file.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _entries(config: Any, calibrated: bool) -> dict[str, Any]:
    return {
        task: {"impl": f"{MODELING}.{pipeline}", "pt": [auto_class], "type": "text"}
        for task, (pipeline, auto_class) in pipelines_in_folder(config, calibrated).items()
    }


def without_our_pipelines(named: Any, registered: bool = False) -> dict[str, Any]:
    """Return the entries of `custom_pipelines` in `config.json` without those of pipelines in the saved code.

    Args:
        named: The pipeline of each task.
        registered: Whether to keep those that the package does not register.
    """
    left_out = {
        name.format(kind)
        for pipelines in _PIPELINES.values()
        for task, (name, _) in pipelines.items()
        for kind in _KINDS.values()
        if not (registered and task in _NOT_REGISTERED)
    }
    if not isinstance(named, dict):
        return {}
    return {
        task: entry
        for task, entry in named.items()
        if not (isinstance(entry, dict) and str(entry.get("impl")).rpartition(".")[2] in left_out)
    }
