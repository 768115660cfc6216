"""Makes `transformers.pipeline` use the pipelines of this package for its models."""

from __future__ import annotations

from transformers import AutoModelForMaskedLM
from transformers.pipelines import PIPELINE_REGISTRY

from .calibrated_text_classification import CalibratedTextClassificationPipeline
from .calibrated_token_classification import CalibratedTokenClassificationPipeline
from .continuation_pipeline import ContinuationPipeline
from .infilling_pipeline import InfillingPipeline

_PIPELINES = {
    "text-classification": CalibratedTextClassificationPipeline,
    "text-generation": ContinuationPipeline,
    "token-classification": CalibratedTokenClassificationPipeline,
}


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
    if "infilling" not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline("infilling", InfillingPipeline, pt_model=AutoModelForMaskedLM, type="text")
