"""Pipelines of transformers that run exported models."""

from __future__ import annotations

import os
from typing import Any, cast

from transformers import Pipeline, pipeline

from ..pipelines.calibrated_text_classification import CalibratedTextClassificationPipeline
from ..pipelines.question_answering import QuestionAnsweringPipeline
from .exported_heads import load_exported_head
from .loading import hub_options


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
    model: Any
    model, tokenizer = load_exported_head(name, trust_remote_code=trust_remote_code, **hub_options(options))
    if task == "question-answering":  # Transformers has none.
        return QuestionAnsweringPipeline(model=model, tokenizer=tokenizer, **options)
    if task == "text-classification":
        return CalibratedTextClassificationPipeline(model=model, tokenizer=tokenizer, **options)
    return cast(Any, pipeline)(task, model=model, tokenizer=tokenizer, **options)
