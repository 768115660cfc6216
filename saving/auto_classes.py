"""The class that each Auto class of transformers resolves to, by name, so that saving imports no model classes."""

from __future__ import annotations

from typing import Any

# The Auto class of the model for retrieval.
RETRIEVAL = "AutoModelForTextEncoding"
AUTO_MODELS = {
    "AutoModel": "SequenceEncoderModel",
    "AutoModelForPreTraining": "SequenceEncoderForPreTraining",
    "AutoModelForMaskedLM": "SequenceEncoderForMaskedLM",
    "AutoModelForSequenceClassification": "SequenceEncoderForSequenceClassification",
    "AutoModelForTokenClassification": "SequenceEncoderForTokenClassification",
    "AutoModelForQuestionAnswering": "SequenceEncoderForQuestionAnswering",
    "AutoModelForMultipleChoice": "SequenceEncoderForMultipleChoice",
    RETRIEVAL: "SequenceEncoderForRetrieval",
}
# A second Auto class, for the "text-generation" pipeline.
WRITING_MODELS = {"AutoModelForCausalLM": "SequenceEncoderForMaskedLM"}
ADAPTER_MODELS = {"AutoModelForSequenceClassification": "TaskAdapter"}
# By model type.
AUTO_CLASSES = {
    "sequence_encoder": {"AutoConfig": "SequenceEncoderConfig", **AUTO_MODELS, **WRITING_MODELS},
    "sequence_encoder_task_adapter": {"AutoConfig": "TaskAdapterConfig", **ADAPTER_MODELS},
}


def is_package_class(auto_class: type[Any]) -> bool:
    """Return whether a class is one of the classes in the tables, rather than a user's subclass."""
    names = {name for classes in AUTO_CLASSES.values() for name in classes.values()}
    return auto_class.__name__ in names and auto_class.__module__.partition(".")[0] == __name__.partition(".")[0]
