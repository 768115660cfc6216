"""Model cards, and saving in the format of sentence-transformers."""

from .card import Training, model_card
from .sentence_transformers import save_sentence_transformer

__all__ = ["Training", "model_card", "save_sentence_transformer"]
