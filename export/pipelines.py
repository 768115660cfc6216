"""Pipelines of transformers that run exported models."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, cast

from transformers import Pipeline, pipeline
from transformers.utils import ModelOutput

from ..inference import QuestionAnsweringPipeline
from ..inference.calibrated_text_classification import CalibratedTextClassificationPipeline
from ..modeling.calibration import Calibration, read_calibration
from ..modeling.layer_vectors import LAYER_VECTORS
from .loading import hub_options, load_exported, running_lock


class _PipelineModel:
    """An exported model with what pipelines ask of a model."""

    def __init__(self, exported: Any, calibration: Calibration | None) -> None:
        self._exported, self._running = exported, running_lock(exported)
        (component,) = exported.components.values()
        self._inputs = tuple(component.metadata.kwargs)
        self.config, self.device, self.dtype = exported.config, exported.device, exported.dtype
        self.calibration = calibration

    def __call__(self, **inputs: Any) -> Any:
        return self.forward(**inputs)

    def forward(self, **inputs: Any) -> Any:
        """Run the graph on those inputs that it has."""
        with self._running:
            return ModelOutput(self._exported(**{name: inputs[name] for name in self._inputs if name in inputs}))

    def can_generate(self) -> bool:
        """Return whether the model generates text."""
        return False

    def to(self, device: Any) -> _PipelineModel:
        """Return the model, whose device was chosen when it was loaded."""
        return self


def exported_pipeline(
    task: str, name: str | os.PathLike[str], *, trust_remote_code: bool = False, **options: Any
) -> Pipeline:
    """Return a pipeline of transformers that runs a model which `export` has saved. It computes in float32.

    With a calibrated model, it returns calibrated scores, sets of labels and p-values of unfamiliar texts. Graphs of
    earlier versions have p-values only if their score is the energy of the logits.

    Args:
        task: The task of the pipeline, such as `text-classification` or `question-answering`.
        name: A folder or a Hub id.
        trust_remote_code: Whether to load a file that can run any code, such as a torch program.
        **options: Arguments of `transformers.pipeline`, such as `top_k`.

    Raises:
        MissingLibraryError: If the runtime is not installed.
        OSError: If there is no exported model.
        ValueError: If the format is not supported, or is not trusted.
    """
    exported, tokenizer = load_exported(name, trust_remote_code=trust_remote_code)
    # Pipelines compare the name of the class with those that the task supports.
    kind = type(next(iter(exported.config.architectures or ["ExportedModel"])), (_PipelineModel,), {})
    calibration = read_calibration(name, **hub_options(options))
    (component,) = exported.components.values()
    if calibration is not None and calibration.needs_vectors and LAYER_VECTORS not in str(component.metadata.out_spec):
        calibration = replace(calibration, unfamiliarity=None)
    model: Any = kind(exported, calibration)
    if task == "question-answering":  # Transformers has none.
        return QuestionAnsweringPipeline(model=model, tokenizer=tokenizer, **options)
    if task == "text-classification":
        return CalibratedTextClassificationPipeline(model=model, tokenizer=tokenizer, **options)
    return cast(Any, pipeline)(task, model=model, tokenizer=tokenizer, **options)
