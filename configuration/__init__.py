"""What an encoder is: its configuration and the presets of well-known families."""

from .configuration_sequence_encoder import SequenceEncoderConfig
from .presets import PRESETS

__all__ = ["PRESETS", "SequenceEncoderConfig"]
