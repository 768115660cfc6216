"""Configurations, and presets for well-known encoder families."""

from .configuration_sequence_encoder import SequenceEncoderConfig
from .configuration_task_adapter import TaskAdapterConfig
from .presets import PRESETS

__all__ = ["PRESETS", "SequenceEncoderConfig", "TaskAdapterConfig"]
