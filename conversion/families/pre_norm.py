"""Families like BERT and RoBERTa whose layers have their norms before each branch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..family import Family
from ..key_mapping import module
from .bert import BERT, LAYER
from .roberta import ROBERTA

_PRE_NORM = {"norm_placement": "pre"}
_NO_EMBEDDING_NORM = {**_PRE_NORM, "embedding_norm": False}


def _with_norms(family: Family, last: str, attention: str, feed_forward: str) -> dict[str, Any]:
    """Return the rules of a family, with other names for the last norm and for those of the layers."""
    return {
        "trunk": [*family.trunk, *module("norm", last)],
        "layer": [
            *(rule for rule in LAYER if "_norm." not in rule.ours),
            *module("layers.{}.attn_norm", attention),
            *module("layers.{}.mlp_norm", feed_forward),
        ],
    }


# The efficient_mlm models (Wettig et al., 2023), and others trained with fairseq's pre-norm RoBERTa.
ROBERTA_PRELAYERNORM = replace(
    ROBERTA,
    name="roberta_prelayernorm",
    model_prefixes=("RobertaPreLayerNorm",),
    settings={**ROBERTA.settings, **_PRE_NORM, "first_attn_norm": True},
    **_with_norms(
        ROBERTA, "LayerNorm", "encoder.layer.{}.attention.LayerNorm", "encoder.layer.{}.intermediate.LayerNorm"
    ),
)
# XLM-R XL and XXL (Goyal et al., 2021).
XLM_ROBERTA_XL = replace(
    ROBERTA,
    name="xlm_roberta_xl",
    model_prefixes=("XLMRobertaXL",),
    settings={**ROBERTA.settings, **_NO_EMBEDDING_NORM},
    **_with_norms(
        ROBERTA,
        "encoder.LayerNorm",
        "encoder.layer.{}.attention.self_attn_layer_norm",
        "encoder.layer.{}.LayerNorm",
    ),
)
# Megatron-LM's BERT (Shoeybi et al., 2019).
MEGATRON_BERT = replace(
    BERT,
    name="megatron_bert",
    model_prefixes=("MegatronBert",),
    fields={**BERT.fields, "classifier_dropout": "hidden_dropout_prob"},
    settings={**BERT.settings, **_NO_EMBEDDING_NORM},
    read=lambda config: {},
    **_with_norms(BERT, "encoder.ln", "encoder.layer.{}.attention.ln", "encoder.layer.{}.ln"),
)
