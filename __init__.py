"""A padding-free text encoder for the Hugging Face ecosystem.

Importing this package registers it with the Auto classes of transformers.
"""

from transformers.models.auto import modeling_auto
from transformers.models.auto.tokenization_auto import AutoTokenizer

from . import modeling
from .cards.card import card_to_push
from .cards.sections import trim_card
from .configuration import SequenceEncoderConfig, TaskAdapterConfig
from .conversion import convert
from .inference.registration import install_pipelines
from .modeling import (
    SequenceEncoderForMaskedLM,
    SequenceEncoderForMultipleChoice,
    SequenceEncoderForPreTraining,
    SequenceEncoderForQuestionAnswering,
    SequenceEncoderForRetrieval,
    SequenceEncoderForSequenceClassification,
    SequenceEncoderForTokenClassification,
    SequenceEncoderModel,
    SequenceEncoderPreTrainedModel,
    TaskAdapter,
)
from .modeling.quantized.eight_bit_config import EightBitConfig
from .modeling.quantized.eight_bit_quantizer import EightBitQuantizer
from .quantization.loading import quantize_loaded
from .saving.atomic_saving import ModelSavingMixin
from .saving.auto_classes import AUTO_CLASSES
from .tokenizer import SequenceEncoderTokenizer
from .training.task_adapter_training import train_adapted_model
from .version import __version__ as __version__

__all__ = [
    "EightBitConfig",
    "SequenceEncoderConfig",
    "SequenceEncoderForMaskedLM",
    "SequenceEncoderForMultipleChoice",
    "SequenceEncoderForPreTraining",
    "SequenceEncoderForQuestionAnswering",
    "SequenceEncoderForRetrieval",
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
    for _auto_class, _model_class in AUTO_CLASSES[_config_class.model_type].items():
        if _auto_class != "AutoConfig":
            getattr(modeling_auto, _auto_class).register(_config_class, getattr(modeling, _model_class))
ModelSavingMixin.card_to_push = card_to_push
ModelSavingMixin.trim_card = trim_card
install_pipelines()
EightBitQuantizer.quantize_loaded = quantize_loaded
AutoTokenizer.register(SequenceEncoderConfig, SequenceEncoderTokenizer)
