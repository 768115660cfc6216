"""The models: the encoder, its parts and the heads."""

from .heads.pretraining_heads import SequenceEncoderForMaskedLM, SequenceEncoderForPreTraining
from .heads.retrieval import SequenceEncoderForRetrieval
from .heads.task_adapter import TaskAdapter
from .heads.task_heads import (
    SequenceEncoderForMultipleChoice,
    SequenceEncoderForQuestionAnswering,
    SequenceEncoderForSequenceClassification,
    SequenceEncoderForTokenClassification,
)
from .modeling_sequence_encoder import SequenceEncoderModel
from .pretrained_model import SequenceEncoderPreTrainedModel

__all__ = [
    "SequenceEncoderForMaskedLM",
    "SequenceEncoderForMultipleChoice",
    "SequenceEncoderForPreTraining",
    "SequenceEncoderForQuestionAnswering",
    "SequenceEncoderForRetrieval",
    "SequenceEncoderForSequenceClassification",
    "SequenceEncoderForTokenClassification",
    "SequenceEncoderModel",
    "SequenceEncoderPreTrainedModel",
    "TaskAdapter",
]
