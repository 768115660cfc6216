"""Configurations, which are registered with transformers, and presets for well-known encoder families."""

from transformers.models.auto.configuration_auto import AutoConfig

from .configuration_sequence_encoder import SequenceEncoderConfig
from .configuration_task_adapter import TaskAdapterConfig
from .presets import PRESETS

__all__ = ["PRESETS", "SequenceEncoderConfig", "TaskAdapterConfig"]

for _config_class in (SequenceEncoderConfig, TaskAdapterConfig):
    AutoConfig.register(_config_class.model_type, _config_class)
