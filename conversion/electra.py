"""ELECTRA (Clark et al., 2020), where its embeddings are as wide as its layers."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from .bert import ANSWERS, CLASSIFIER, FIELDS, LAYER, REQUIRED, SETTINGS, TRUNK, classifier_dropout, segment_types
from .family import Family, Head
from .key_mapping import module

_NO_POOLER = {"pooler_act": None}
_GELU = {"pooler_act": "gelu"}


def _read(config: PreTrainedConfig) -> dict[str, Any]:
    if config.embedding_size != config.hidden_size:
        raise ValueError(
            f"embedding_size={config.embedding_size} cannot be represented: it must be hidden_size="
            f"{config.hidden_size}, since there is no projection between them."
        )
    return classifier_dropout(config)


ELECTRA = Family(
    name="electra",
    model_prefixes=("Electra",),
    fields=FIELDS,
    settings=SETTINGS,
    required={
        **REQUIRED,
        "summary_type": "first",
        "summary_use_proj": True,
        "summary_activation": "gelu",
        "summary_proj_to_labels": False,
    },
    trunk=TRUNK,
    layer=LAYER,
    heads={
        "Model": Head(settings=_NO_POOLER),
        "ForMaskedLM": Head(
            [
                *module("head.dense", "generator_predictions.dense"),
                *module("head.norm", "generator_predictions.LayerNorm"),
                *module("decoder", "generator_lm_head"),
            ],
            {**_NO_POOLER, "hidden_act": "gelu"},
        ),
        "ForSequenceClassification": Head(
            [*module("model.pooler.dense", "classifier.dense"), *module("classifier", "classifier.out_proj")], _GELU
        ),
        "ForMultipleChoice": Head([*module("model.pooler.dense", "sequence_summary.summary"), *CLASSIFIER], _GELU),
        "ForTokenClassification": Head(CLASSIFIER, _NO_POOLER),
        "ForQuestionAnswering": Head(ANSWERS, _NO_POOLER),
    },
    read=_read,
    write=lambda config: {**segment_types(config), "embedding_size": config.hidden_size},
)
