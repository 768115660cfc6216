"""Inference with fine-tuned models."""

from .question_answering import QuestionAnsweringPipeline

__all__ = ["QuestionAnsweringPipeline"]
