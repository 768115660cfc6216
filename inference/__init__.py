"""Inference with fine-tuned models, and its speed."""

from .optimizing import optimize_for_inference
from .question_answering import QuestionAnsweringPipeline
from .unpadded import unpad_inputs

__all__ = ["QuestionAnsweringPipeline", "optimize_for_inference", "unpad_inputs"]
