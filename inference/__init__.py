"""What uses trained models."""

from .question_answering import QuestionAnsweringPipeline

__all__ = ["QuestionAnsweringPipeline"]
