"""Pipelines that transformers does not have, or not any more."""

from .question_answering import QuestionAnsweringPipeline

__all__ = ["QuestionAnsweringPipeline"]
