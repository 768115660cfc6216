"""A padding-free text encoder for the Hugging Face ecosystem.

Importing this package makes `AutoConfig`, `AutoModel`, `AutoModelFor…` and `AutoTokenizer` of transformers know it.
"""

from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.modeling_auto import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from transformers.models.auto.tokenization_auto import AutoTokenizer

from .configuration import SequenceEncoderConfig
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
for _auto_class, _model_class in (
    (AutoModel, SequenceEncoderModel),
    (AutoModelForPreTraining, SequenceEncoderForPreTraining),
    (AutoModelForMaskedLM, SequenceEncoderForMaskedLM),
    (AutoModelForSequenceClassification, SequenceEncoderForSequenceClassification),
    (AutoModelForTokenClassification, SequenceEncoderForTokenClassification),
    (AutoModelForQuestionAnswering, SequenceEncoderForQuestionAnswering),
    (AutoModelForMultipleChoice, SequenceEncoderForMultipleChoice),
):
    _auto_class.register(SequenceEncoderConfig, _model_class)
