"""The kinds of models in the table of what works: what each is for, and a tiny one with random weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import sequence_encoder
from sequence_encoder import SequenceEncoderConfig, SequenceEncoderTokenizer, static_encoder
from sequence_encoder.hub.sentence_transformers import save_sentence_transformer
from sequence_encoder.tests.fixtures.adaptation_runs import ANIMALS, COLOURS, WORDS
from sequence_encoder.tokenizer.static_tokenizer import static_tokenizer

HIDDEN = 32
COLOUR_NAMES = {"id2label": dict(enumerate(COLOURS)), "label2id": {name: index for index, name in enumerate(COLOURS)}}
_BOTH = sorted([*COLOURS, *ANIMALS])
_TAGS = ["O", "B-colour", "I-colour", "B-animal", "I-animal"]


@dataclass(frozen=True)
class Kind:
    """A kind of models.

    Attributes:
        title: Its name in the table.
        head: What comes after `SequenceEncoder` in the name of its class.
        task: The task of `adapt` for its examples.
        fields: Fields of its configuration.
        preset: Its preset.
        back: The family that `convert --to` makes of it.
        pipeline: The task of its pipeline.
        inputs: What its pipeline reads.
        options: Arguments of a call of its pipeline.
        markers: The fields of its head for the ids of the tokens before each label, and between labels and text.
        peft: The type of its adapters in peft.
    """

    title: str
    head: str
    task: str
    fields: dict[str, Any] = field(default_factory=dict)
    preset: str = "bert"
    back: str = "bert"
    pipeline: str = "text-classification"
    inputs: Any = "the red cat is here"
    options: dict[str, Any] = field(default_factory=dict)
    markers: tuple[str, str, str] | None = None
    peft: str = "SEQ_CLS"


def _names(labels: list[str]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(labels)), "label2id": {label: index for index, label in enumerate(labels)}}


_LABELS = "ForSequenceClassification"
_MARKERS = ["<<LABEL>>", "<<SEP>>"]
_QUESTION = {"question": "which ?", "context": "the red cat is here"}
KINDS: dict[str, Kind] = {
    "unnamed": Kind("classifier without names of labels", _LABELS, "classification", {"num_labels": 3}),
    "classifier": Kind("classifier", _LABELS, "classification", _names(COLOURS)),
    "multi-label": Kind(
        "multi-label classifier",
        _LABELS,
        "multi-label",
        {**_names(_BOTH), "problem_type": "multi_label_classification"},
    ),
    "regression": Kind("regression", _LABELS, "regression", {"num_labels": 1, "problem_type": "regression"}),
    "ranker": Kind("cross-encoder", _LABELS, "ranking", {"num_labels": 1}, inputs={"text": "a cat", "text_pair": "it"}),
    "tagger": Kind(
        "tagger",
        "ForTokenClassification",
        "ner",
        _names(_TAGS),
        pipeline="token-classification",
        peft="TOKEN_CLS",
    ),
    "qa": Kind(
        "question answering",
        "ForQuestionAnswering",
        "qa",
        pipeline="question-answering",
        inputs=_QUESTION,
        peft="QUESTION_ANS",
    ),
    "extractor": Kind(
        "span extraction",
        "ForSpanExtraction",
        "ner",
        pipeline="zero-shot-entities",
        options={"labels": COLOURS, "threshold": 0.0},
        markers=("span_extraction", "label_token_id", "separator_token_id"),
        peft="FEATURE_EXTRACTION",
    ),
    "zeroshot": Kind(
        "zero-shot classification",
        "ForZeroShotClassification",
        "classification",
        {"pooling": "cls", "pooler_act": None},
        pipeline="zero-shot-classification",
        options={"candidate_labels": COLOURS},
        markers=("zero_shot_classification", "label_token_id", "text_token_id"),
    ),
    "choice": Kind("multiple choice", "ForMultipleChoice", "multiple-choice", pipeline="", peft=""),
    "retrieval": Kind(
        "retrieval (three outputs)",
        "ForRetrieval",
        "embedding",
        # A family that BGE-M3 belongs to. Its positions skip padding.
        {"position_offset": 1, "type_vocab_size": 2},
        preset="roberta",
        back="roberta",
        pipeline="feature-extraction",
        peft="FEATURE_EXTRACTION",
    ),
    "encoder": Kind("sentence encoder", "Model", "embedding", pipeline="feature-extraction", peft="FEATURE_EXTRACTION"),
    "static": Kind("static encoder", "Model", "embedding", pipeline="feature-extraction", peft=""),
    "masked": Kind(
        "masked language model",
        "ForMaskedLM",
        "infilling",
        pipeline="fill-mask",
        inputs="the red [MASK] is here",
        peft="",
    ),
    "writer": Kind(
        "writer", "ForMaskedLM", "infilling", pipeline="infilling", inputs="the red [MASK]{2} is here", peft=""
    ),
}


def class_of(kind: Kind) -> Any:
    """Return the class of the models of a kind."""
    return getattr(sequence_encoder, f"SequenceEncoder{kind.head}")


def tokenizer_of() -> SequenceEncoderTokenizer:
    """Train a tokenizer that knows the words of the examples."""
    return SequenceEncoderTokenizer.train_from_iterator([" ".join(WORDS)] * 5, vocab_size=90, show_progress=False)


def save_fresh(kind: Kind, folder: Path) -> None:
    """Save a tiny model with random weights and its tokenizer."""
    tokenizer = tokenizer_of()
    if kind is KINDS["static"]:
        own = static_tokenizer(tokenizer.backend_tokenizer)
        table = torch.randn(len(own), HIDDEN, generator=torch.Generator().manual_seed(0))
        static_encoder(table, pad_token_id=own.pad_token_id).save_pretrained(folder)
        own.save_pretrained(folder)
        return
    fields: dict[str, Any] = dict(kind.fields)
    if kind.markers is not None:
        name, *ids_of = kind.markers
        tokenizer.add_tokens(_MARKERS, special_tokens=True)
        fields[name] = dict(zip(ids_of, tokenizer.convert_tokens_to_ids(_MARKERS), strict=True))
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "cls", "sep", "mask")}
    config = SequenceEncoderConfig.from_preset(
        kind.preset,
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        **ids,
        **fields,
    )
    torch.manual_seed(0)
    model = randomized(class_of(kind)(config))
    if kind.head == "Model":
        save_sentence_transformer(folder, model, tokenizer, pooling="mean", normalize_embeddings=True)
        return
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def randomized(model: Any) -> Any:
    """Add noise to all weights, so that heads answer differently for each text. Return the model in evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.empty(parameter.shape).normal_(std=0.1, generator=generator))
    return model.eval()
