"""The models: the encoder, its parts and the heads. To add a head, write its module and add its line here."""

from typing import TYPE_CHECKING

from .heads.pretraining_heads import SequenceEncoderForMaskedLM as SequenceEncoderForMaskedLM
from .heads.pretraining_heads import SequenceEncoderForPreTraining as SequenceEncoderForPreTraining
from .heads.retrieval import SequenceEncoderForRetrieval as SequenceEncoderForRetrieval
from .heads.span_extraction import SequenceEncoderForSpanExtraction as SequenceEncoderForSpanExtraction
from .heads.task_adapter import TaskAdapter as TaskAdapter
from .heads.task_heads import SequenceEncoderForMultipleChoice as SequenceEncoderForMultipleChoice
from .heads.task_heads import SequenceEncoderForQuestionAnswering as SequenceEncoderForQuestionAnswering
from .heads.task_heads import SequenceEncoderForSequenceClassification as SequenceEncoderForSequenceClassification
from .heads.task_heads import SequenceEncoderForTokenClassification as SequenceEncoderForTokenClassification
from .heads.zero_shot_classification import (
    SequenceEncoderForZeroShotClassification as SequenceEncoderForZeroShotClassification,
)
from .modeling_sequence_encoder import SequenceEncoderModel as SequenceEncoderModel
from .pretrained_model import SequenceEncoderPreTrainedModel as SequenceEncoderPreTrainedModel

if not TYPE_CHECKING:
    # Type checkers read the names from the imports.
    __all__ = [name for name, value in globals().items() if isinstance(value, type)]
