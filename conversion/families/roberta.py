"""RoBERTa (Liu et al., 2019), XLM-R (Conneau et al., 2020), CamemBERT (Martin et al., 2020) and data2vec for text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from transformers import PreTrainedConfig

from ..family import Family, Head
from ..key_mapping import Rule, module
from .bert import (
    FIELDS,
    LAYER,
    POOLER,
    REQUIRED,
    SETTINGS,
    TANH,
    TASK_HEADS,
    TRUNK,
    classifier_dropout,
)


def _read(config: PreTrainedConfig) -> dict[str, Any]:
    if config.pad_token_id is None:
        raise ValueError("pad_token_id must not be None, because the positions of this family start after it.")
    unused = config.pad_token_id + 1
    return {
        **classifier_dropout(config),
        "position_offset": unused,
        "max_position_embeddings": config.max_position_embeddings - unused,
    }


def _write(config: PreTrainedConfig) -> dict[str, Any]:
    unused = 0 if config.pad_token_id is None else config.pad_token_id + 1
    return {"max_position_embeddings": config.max_position_embeddings + unused}


ROBERTA = Family(
    name="roberta",
    model_prefixes=("Roberta", "XLMRoberta", "Camembert"),
    fields=FIELDS,
    settings=SETTINGS,
    required=REQUIRED,
    trunk=[*TRUNK, *POOLER],
    layer=LAYER,
    heads={
        "Model": Head(settings=TANH),
        "ForMaskedLM": Head(
            [
                *module("head.dense", "lm_head.dense"),
                *module("head.norm", "lm_head.layer_norm"),
                Rule("decoder.weight", ("lm_head.decoder.weight",)),
                Rule("decoder.bias", ("lm_head.decoder.bias", "lm_head.bias")),
            ],
            {**TANH, "hidden_act": "gelu"},
        ),
        # The classifier's dense layer plays the role of the pooler in other families.
        **TASK_HEADS,
        "ForSequenceClassification": Head(
            [*module("model.pooler.dense", "classifier.dense"), *module("classifier", "classifier.out_proj")], TANH
        ),
    },
    read=_read,
    write=_write,
)
# Baevski et al., 2022: RoBERTa under other names.
DATA2VEC_TEXT = replace(ROBERTA, name="data2vec_text", model_prefixes=("Data2VecText",))
