"""A padding-free text encoder for the Hugging Face ecosystem.

Importing this package makes `AutoConfig`, `AutoModel`, `AutoModelFor…` and `AutoTokenizer` of transformers know it.
"""

from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.tokenization_auto import AutoTokenizer

from .configuration import SequenceEncoderConfig, TaskAdapterConfig
from .conversion import convert
from .modeling import (
    SequenceEncoderForMaskedLM,
    SequenceEncoderForMultipleChoice,
    SequenceEncoderForPreTraining,
    SequenceEncoderForQuestionAnswering,
    SequenceEncoderForSequenceClassification,
    SequenceEncoderForTokenClassification,
    SequenceEncoderModel,
    SequenceEncoderPreTrainedModel,
    TaskAdapter,
)
from .saving.auto_classes import AUTO_CLASSES
from .tokenizer import SequenceEncoderTokenizer
from .training.adaptation.task_adapter_training import train_adapted_model

__all__ = [
    "SequenceEncoderConfig",
    "SequenceEncoderForMaskedLM",
    "SequenceEncoderForMultipleChoice",
    "SequenceEncoderForPreTraining",
    "SequenceEncoderForQuestionAnswering",
    "SequenceEncoderForSequenceClassification",
    "SequenceEncoderForTokenClassification",
    "SequenceEncoderModel",
    "SequenceEncoderPreTrainedModel",
    "SequenceEncoderTokenizer",
    "TaskAdapter",
    "TaskAdapterConfig",
    "convert",
    "train_adapted_model",
]

for _config_class in (SequenceEncoderConfig, TaskAdapterConfig):
    AutoConfig.register(_config_class.model_type, _config_class)
    for _name, _model_class in AUTO_CLASSES[_config_class.model_type].items():
        if _name != "AutoConfig":
            getattr(modeling_auto, _name).register(_config_class, _model_class)
AutoTokenizer.register(SequenceEncoderConfig, SequenceEncoderTokenizer)
