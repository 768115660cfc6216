"""Inference with fine-tuned models, and its speed."""

from .optimizing import optimize_for_inference
from .question_answering import QuestionAnsweringPipeline

__all__ = ["QuestionAnsweringPipeline", "optimize_for_inference"]
