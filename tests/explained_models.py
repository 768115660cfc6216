"""Tiny models with each head and their tokenizer, for the tests of explanations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sequence_encoder import (
    SequenceEncoderForMaskedLM,
    SequenceEncoderForQuestionAnswering,
    SequenceEncoderForSequenceClassification,
    SequenceEncoderForTokenClassification,
    SequenceEncoderModel,
)
from sequence_encoder.tests.texts import tokenizer_of

LABELS = {0: "bad", 1: "good", 2: "other"}
TAGS = {0: "O", 1: "B-X", 2: "I-X", 3: "B-Y"}
# For each head: its class, fields of the configuration, and the number of texts.
HEADS: dict[str, tuple[type[Any], dict[str, Any], int]] = {
    "label": (SequenceEncoderForSequenceClassification, {"id2label": LABELS}, 1),
    "label of a pair": (SequenceEncoderForSequenceClassification, {"id2label": LABELS}, 2),
    "several labels": (
        SequenceEncoderForSequenceClassification,
        {"id2label": LABELS, "problem_type": "multi_label_classification"},
        1,
    ),
    "score": (SequenceEncoderForSequenceClassification, {"num_labels": 1}, 2),
    "number": (SequenceEncoderForSequenceClassification, {"num_labels": 1, "problem_type": "regression"}, 1),
    "entity": (SequenceEncoderForTokenClassification, {"id2label": TAGS}, 1),
    "answer": (SequenceEncoderForQuestionAnswering, {}, 2),
    "mask": (SequenceEncoderForMaskedLM, {}, 1),
    "similarity": (SequenceEncoderModel, {}, 2),
}
TEXTS = ["Return the text", "of the serialised files"]


def build(
    head: str, tiny_config: Callable[..., Any], randomize: Callable[..., Any], preset: str = "bert", **fields: Any
) -> tuple[Any, Any, list[str]]:
    """Return a model with a head, its tokenizer, and the texts to explain."""
    tokenizer = tokenizer_of()
    kind, own, count = HEADS[head]
    ids = {f"{name}_id": getattr(tokenizer, f"{name}_id") for name in ("pad_token", "cls_token", "sep_token")}
    config = tiny_config(preset, vocab_size=len(tokenizer), mask_token_id=tokenizer.mask_token_id, **ids, **own)
    for name, value in fields.items():
        setattr(config, name, value)
    texts = [f"{TEXTS[0]} {tokenizer.mask_token}" if head == "mask" else TEXTS[0], TEXTS[1]][:count]
    return randomize(kind(config)), tokenizer, texts
