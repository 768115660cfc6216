"""What each kind of model is used for, for the errors of commands that cannot use it."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

_PREFIX = "SequenceEncoder"
_USES = {
    "ForSequenceClassification": '`sequence-encoder predict` or pipeline("text-classification")',
    "ForTokenClassification": 'pipeline("token-classification")',
    "ForQuestionAnswering": 'pipeline("question-answering", trust_remote_code=True)',
    "ForMultipleChoice": "AutoModelForMultipleChoice, which computes a logit for each choice",
    "ForMaskedLM": 'pipeline("fill-mask") or `infill`',
    "ForPreTraining": 'pipeline("fill-mask")',
    "ForRetrieval": "`sequence-encoder embed`, `index` or `serve`",
    "Model": "`sequence-encoder embed`, `index` or `serve`",
}


def use_of(model: Any) -> str:
    """Return a sentence that says what to use a model with, which may be exported."""
    # The class of an exported model has the name of the model's.
    use = _USES.get(type(model).__name__.removeprefix(_PREFIX), "the methods of its class")
    if not isinstance(model, PreTrainedModel):
        use = (
            use.replace(", trust_remote_code=True", "")
            .replace(" or `infill`", "")
            .replace("pipeline(", "exported_pipeline(")
        )
    return f"Use this one with {use}."
