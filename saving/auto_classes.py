"""Which class each Auto class of transformers gives, by name: whoever saves a model need not import its class."""

from __future__ import annotations

from typing import Any

AUTO_MODELS = {
    "AutoModel": "SequenceEncoderModel",
    "AutoModelForPreTraining": "SequenceEncoderForPreTraining",
    "AutoModelForMaskedLM": "SequenceEncoderForMaskedLM",
    "AutoModelForSequenceClassification": "SequenceEncoderForSequenceClassification",
    "AutoModelForTokenClassification": "SequenceEncoderForTokenClassification",
    "AutoModelForQuestionAnswering": "SequenceEncoderForQuestionAnswering",
    "AutoModelForMultipleChoice": "SequenceEncoderForMultipleChoice",
}
ADAPTER_MODELS = {"AutoModelForSequenceClassification": "TaskAdapter"}
# For each model type.
AUTO_CLASSES = {
    "sequence_encoder": {"AutoConfig": "SequenceEncoderConfig", **AUTO_MODELS},
    "sequence_encoder_task_adapter": {"AutoConfig": "TaskAdapterConfig", **ADAPTER_MODELS},
}


def is_ours(auto_class: type[Any]) -> bool:
    """Whether a class is one of the table, and not a user's class that extends it."""
    names = {name for classes in AUTO_CLASSES.values() for name in classes.values()}
    return auto_class.__name__ in names and auto_class.__module__.partition(".")[0] == __name__.partition(".")[0]
