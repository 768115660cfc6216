"""The tokenizer and its training."""

from .tokenization_sequence_encoder import SequenceEncoderTokenizer

__all__ = ["SequenceEncoderTokenizer"]
