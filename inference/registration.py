"""Makes transformers use the models and pipelines of this package: its Auto classes, and `transformers.pipeline`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from transformers import AutoModel, AutoModelForMaskedLM
from transformers.models.auto import modeling_auto
from transformers.pipelines import PIPELINE_REGISTRY

from .pipelines.calibrated_text_classification import CalibratedTextClassificationPipeline
from .pipelines.calibrated_token_classification import CalibratedTokenClassificationPipeline
from .pipelines.continuation_pipeline import ContinuationPipeline
from .pipelines.infilling_pipeline import InfillingPipeline
from .pipelines.prompted_zero_shot_classification import PromptedZeroShotClassificationPipeline
from .pipelines.zero_shot_entities import ZeroShotEntitiesPipeline

_PIPELINES = {
    "text-classification": CalibratedTextClassificationPipeline,
    "text-generation": ContinuationPipeline,
    "token-classification": CalibratedTokenClassificationPipeline,
    "zero-shot-classification": PromptedZeroShotClassificationPipeline,
}
# Of tasks that transformers does not have: the pipeline, and the Auto class of the model.
_NEW_PIPELINES = {
    "infilling": (InfillingPipeline, AutoModelForMaskedLM),
    "zero-shot-entities": (ZeroShotEntitiesPipeline, AutoModel),
}


class _ModelClasses(tuple[Any, ...]):
    """The classes that an Auto class loads for one configuration, by its `architectures`; the first by default."""

    # Older versions of transformers, such as 5.7, ask the value of a mapping for the name of its class.
    __name__ = property(lambda self: self[0].__name__)


def register_models(values: Iterable[Any]) -> None:
    """Register models with the Auto classes that they name.

    Args:
        values: The classes of the models, which may be among other values.
    """
    classes = defaultdict[tuple[str, Any], list[Any]](list)
    for value in sorted(values, key=lambda value: getattr(value, "_by_architecture", False)):
        for auto_class in getattr(value, "_auto_classes", ()):
            classes[auto_class, value.config_class].append(value)
    for (auto_class, config_class), found in classes.items():
        value = found[0] if len(found) == 1 else _ModelClasses(found)
        getattr(modeling_auto, auto_class).register(config_class, value)


def install_pipelines() -> None:
    """Replace transformers' pipelines by their subclasses, which only differ for models of this package, and add ours.

    A pipeline that a user registered stays.
    """
    for task, pipeline in _PIPELINES.items():
        entry = PIPELINE_REGISTRY.supported_tasks[task]
        # A class or, in newer versions of transformers, its path.
        name = entry["impl"] if isinstance(entry["impl"], str) else entry["impl"].__qualname__
        if name.rpartition(".")[2] == pipeline.__bases__[-1].__name__:
            PIPELINE_REGISTRY.supported_tasks[task] = {**entry, "impl": pipeline}
    for task, (added, auto_class) in _NEW_PIPELINES.items():
        if task not in PIPELINE_REGISTRY.supported_tasks:
            PIPELINE_REGISTRY.register_pipeline(task, added, pt_model=auto_class, type="text")
