"""What each kind of model is used for, for the errors of commands that cannot use it."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from ..saving.auto_classes import model_classes

# The models of `adapt` to train instead, where what is asked for needs labels that a model has learned.
_LEARNED_LABELS = {
    "SequenceEncoderForZeroShotClassification": "a classifier, from `sequence-encoder adapt --task classification`",
    "SequenceEncoderForSpanExtraction": "a tagger, from `sequence-encoder adapt --task ner`",
}


def with_learned_labels(model: Any) -> str | None:
    """Return what to train instead of a model for any labels, in words; None for other models."""
    return _LEARNED_LABELS.get(type(model).__name__)


def use_of(model: Any) -> str:
    """Return a sentence that says what to use a model with, which may be exported."""
    # The class of an exported model has the name of the model's.
    known = model_classes().get(type(model).__name__)
    use = "the methods of its class"
    if known is not None:
        default = f'pipeline("{known.hub_task}")' if known.has_pipeline else known.auto_classes[0]
        use = known.use or default
    if not isinstance(model, PreTrainedModel):
        use = (
            use.replace(", trust_remote_code=True", "")
            .replace(" or `infill`", "")
            .replace("pipeline(", "exported_pipeline(")
        )
    return f"Use this one with {use}."
