"""How the encoder computes: the trunk, its parts and the task heads."""

from .heads import (
    SequenceEncoderForMultipleChoice,
    SequenceEncoderForQuestionAnswering,
    SequenceEncoderForSequenceClassification,
    SequenceEncoderForTokenClassification,
)
from .modeling_sequence_encoder import SequenceEncoderModel, SequenceEncoderPreTrainedModel
from .pretraining_heads import SequenceEncoderForMaskedLM, SequenceEncoderForPreTraining
from .task_adapter import TaskAdapter

__all__ = [
    "SequenceEncoderForMaskedLM",
    "SequenceEncoderForMultipleChoice",
    "SequenceEncoderForPreTraining",
    "SequenceEncoderForQuestionAnswering",
    "SequenceEncoderForSequenceClassification",
    "SequenceEncoderForTokenClassification",
    "SequenceEncoderModel",
    "SequenceEncoderPreTrainedModel",
    "TaskAdapter",
]
