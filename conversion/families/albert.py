"""ALBERT (Lan et al., 2020): narrow embeddings, and layers that share their weights."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from ..family import Family, Head
from ..key_mapping import SEPARATE_QKV, Rule, module
from .bert import FIELDS, SETTINGS, TANH, TASK_HEADS, TRUNK, check_projected

# The index is that of the group. A group has one layer, since `inner_group_num` is 1.
_LAYER = "encoder.albert_layer_groups.{}.albert_layers.0"
_PREDICTIONS = [
    *module("head.dense", "predictions.dense"),
    *module("head.norm", "predictions.LayerNorm"),
    Rule("decoder.weight", ("predictions.decoder.weight",)),
    # Two names for one tensor.
    Rule("decoder.bias", ("predictions.decoder.bias", "predictions.bias")),
]


def _read(config: PreTrainedConfig) -> dict[str, Any]:
    check_projected(config, "embedding_size")
    given = config.classifier_dropout_prob
    return {"classifier_dropout": config.hidden_dropout_prob if given is None else given}


ALBERT = Family(
    name="albert",
    model_prefixes=("Albert",),
    fields=FIELDS
    | {
        "embedding_size": "embedding_size",
        "num_hidden_groups": "num_hidden_groups",
        "classifier_dropout": "classifier_dropout_prob",
    },
    settings=SETTINGS,
    # transformers no longer supports relative positions, but older configurations still ask for them.
    required={"inner_group_num": 1, "position_embedding_type": "absolute"},
    trunk=[
        *TRUNK,
        *module("embeddings.projection", "encoder.embedding_hidden_mapping_in"),
        *module("pooler.dense", "pooler"),
    ],
    layer=[
        *module(
            "layers.{}.self_attn.qkv_proj",
            *(f"{_LAYER}.attention.{part}" for part in ("query", "key", "value")),
            layout=SEPARATE_QKV,
        ),
        *module("layers.{}.self_attn.o_proj", f"{_LAYER}.attention.dense"),
        *module("layers.{}.attn_norm", f"{_LAYER}.attention.LayerNorm"),
        *module("layers.{}.mlp.up_proj", f"{_LAYER}.ffn"),
        *module("layers.{}.mlp.down_proj", f"{_LAYER}.ffn_output"),
        *module("layers.{}.mlp_norm", f"{_LAYER}.full_layer_layer_norm"),
    ],
    heads={
        "Model": Head(settings=TANH),
        # The head for the order of sentences has as many outputs as the configuration has labels.
        "ForPreTraining": Head(
            [*_PREDICTIONS, *module("sop_classifier", "sop_classifier.classifier")], TANH, required={"num_labels": 2}
        ),
        "ForMaskedLM": Head(_PREDICTIONS, TANH),
        **TASK_HEADS,
    },
    read=_read,
)
