"""A padding-free text encoder for the Hugging Face ecosystem.

Importing this package makes `AutoConfig`, `AutoModel`, `AutoModelFor…` and `AutoTokenizer` of transformers know it.
"""

from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.tokenization_auto import AutoTokenizer

from .configuration import SequenceEncoderConfig
from .conversion import convert
from .hub.auto_classes import AUTO_MODELS
from .modeling import (
    SequenceEncoderForMaskedLM,
    SequenceEncoderForMultipleChoice,
    SequenceEncoderForPreTraining,
    SequenceEncoderForQuestionAnswering,
    SequenceEncoderForSequenceClassification,
    SequenceEncoderForTokenClassification,
    SequenceEncoderModel,
    SequenceEncoderPreTrainedModel,
)
from .tokenizer import SequenceEncoderTokenizer

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
    "convert",
]

AutoConfig.register(SequenceEncoderConfig.model_type, SequenceEncoderConfig)
AutoTokenizer.register(SequenceEncoderConfig, SequenceEncoderTokenizer)
for _name, _model_class in AUTO_MODELS.items():
    getattr(modeling_auto, _name).register(SequenceEncoderConfig, _model_class)
