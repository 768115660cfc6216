"""Pipelines, and the device and dtype of inference."""

from .infilling_pipeline import InfillingPipeline
from .optimizing import optimize_for_inference
from .question_answering import QuestionAnsweringPipeline

__all__ = ["InfillingPipeline", "QuestionAnsweringPipeline", "optimize_for_inference"]
