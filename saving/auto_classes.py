"""Which class each Auto class of transformers gives.

The package registers them by this table. A saved folder names them in its `auto_map`, all in a copy of this file, so
that its classes are of one set of modules.
"""

from __future__ import annotations

from typing import NoReturn

from transformers import PreTrainedModel

from ..configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ..configuration.configuration_task_adapter import TaskAdapterConfig
from ..modeling.heads.pretraining_heads import SequenceEncoderForMaskedLM, SequenceEncoderForPreTraining
from ..modeling.heads.task_adapter import TaskAdapter
from ..modeling.heads.task_heads import (
    SequenceEncoderForMultipleChoice,
    SequenceEncoderForQuestionAnswering,
    SequenceEncoderForSequenceClassification,
    SequenceEncoderForTokenClassification,
)
from ..modeling.modeling_sequence_encoder import SequenceEncoderModel

AUTO_MODELS: dict[str, type[PreTrainedModel]] = {
    "AutoModel": SequenceEncoderModel,
    "AutoModelForPreTraining": SequenceEncoderForPreTraining,
    "AutoModelForMaskedLM": SequenceEncoderForMaskedLM,
    "AutoModelForSequenceClassification": SequenceEncoderForSequenceClassification,
    "AutoModelForTokenClassification": SequenceEncoderForTokenClassification,
    "AutoModelForQuestionAnswering": SequenceEncoderForQuestionAnswering,
    "AutoModelForMultipleChoice": SequenceEncoderForMultipleChoice,
}
ADAPTER_MODELS: dict[str, type[PreTrainedModel]] = {"AutoModelForSequenceClassification": TaskAdapter}
# For each type of models.
AUTO_CLASSES: dict[str, dict[str, type]] = {
    SequenceEncoderConfig.model_type: {"AutoConfig": SequenceEncoderConfig, **AUTO_MODELS},
    TaskAdapterConfig.model_type: {"AutoConfig": TaskAdapterConfig, **ADAPTER_MODELS},
}


def __getattr__(name: str) -> NoReturn:
    """A class that the `auto_map` of a folder names, and that is not here."""
    names = ", ".join(each.__name__ for classes in AUTO_CLASSES.values() for each in classes.values())
    raise AttributeError(f"{name} is no class of a SequenceEncoder; the auto_map in config.json can name {names}.")
