"""Inference with fine-tuned models, and its speed."""

from .infilling_pipeline import InfillingPipeline
from .optimizing import optimize_for_inference
from .question_answering import QuestionAnsweringPipeline
from .unpadded import unpad_inputs

__all__ = ["InfillingPipeline", "QuestionAnsweringPipeline", "optimize_for_inference", "unpad_inputs"]
