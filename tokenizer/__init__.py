"""From text to ids and back."""

from .tokenization_sequence_encoder import SequenceEncoderTokenizer

__all__ = ["SequenceEncoderTokenizer"]
