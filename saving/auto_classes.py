"""The class that each Auto class of transformers resolves to, by name, so that saving imports no model classes."""

from __future__ import annotations

from typing import Any

from .code_bundle import MODELING

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
# The class in a saved folder for the Auto classes that its code does not have.
LEFT_OUT = "HeadLeftOut"

TASK_MODELS = frozenset(
    f"SequenceEncoderFor{task}"
    for task in ("SequenceClassification", "TokenClassification", "QuestionAnswering", "MultipleChoice")
)
_PRETRAINED = frozenset({"SequenceEncoderModel", "SequenceEncoderForMaskedLM", "SequenceEncoderForRetrieval"})
# The classes in the folder of each class, besides itself. Others fine-tune pretrained models for any task.
_OFFERED = dict.fromkeys(_PRETRAINED, TASK_MODELS | {"SequenceEncoderModel"})
_OFFERED["SequenceEncoderForPreTraining"] = _OFFERED["SequenceEncoderForMaskedLM"] | {"SequenceEncoderForMaskedLM"}
_OFFERED |= dict.fromkeys(TASK_MODELS, frozenset({"SequenceEncoderModel"}))
_ALL = frozenset(AUTO_MODELS.values())


def saved_class(config: Any) -> str | None:
    """Return the name of the class of the model that a configuration is saved with; None if it is not known."""
    architectures = getattr(config, "architectures", None) or []
    return architectures[0] if len(architectures) == 1 and architectures[0] in _OFFERED else None


def classes_in_folder(config: Any) -> frozenset[str]:
    """Return the names of the model classes whose code is saved with a configuration."""
    if config.model_type != "sequence_encoder":
        return frozenset(ADAPTER_MODELS.values())
    name = saved_class(config)
    return _ALL if name is None else _OFFERED[name] | {name}


def auto_map(config: Any) -> dict[str, str]:
    """Return the `auto_map` of `config.json`: the file and the class for each Auto class.

    Every entry refers to the file that imports the other one. Transformers copies only the file of an entry and its
    imports, so this way a configuration that was loaded alone can still be saved with all of the code.

    Args:
        config: The configuration. Entries of its current `auto_map` for other classes, such as a user's subclass, are
            kept. Entries for classes of this package are replaced, because their code is saved with the configuration.
    """
    classes, offered = AUTO_CLASSES[config.model_type], classes_in_folder(config)
    names = {kind: name if kind == "AutoConfig" or name in offered else LEFT_OUT for kind, name in classes.items()}
    given: dict[str, str] = getattr(config, "auto_map", None) or {}
    replaced = {LEFT_OUT, *classes.values()}
    others = {kind: path for kind, path in given.items() if str(path).rpartition(".")[2] not in replaced}
    return {kind: f"{MODELING}.{name}" for kind, name in names.items()} | others
