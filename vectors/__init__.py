"""Vectors of texts in the formats of sentence-transformers: dense, sparse and several for each text."""

from .sentence_transformers import save_sentence_transformer
from .unpadded import unpad_inputs

__all__ = ["save_sentence_transformer", "unpad_inputs"]
