"""GTE (Zhang et al., 2024): multilingual GTE, Snowflake's arctic-embed-m-v2.0, and others with its architecture."""

from __future__ import annotations

from .bert import CLASSIFIER, FIELDS, TANH
from .family import Family, Head
from .key_mapping import module
from .nomic_bert import GATED, NOMIC_BERT, ROTARY_LAYER, ROTARY_TRUNK
from .rotary_fields import read_rotary, write_rope

_FIELDS = FIELDS | {"mlp_dropout": "hidden_dropout_prob"}
# Only the last layer of the feed-forward network has a bias.
_BIASES = {"attention_bias": True, "mlp_bias": False, "mlp_down_bias": True}


GTE = Family(
    name="gte",
    model_prefixes=("Gte",),
    fields=_FIELDS,
    settings={name: value for name, value in NOMIC_BERT.settings.items() if name not in _FIELDS} | _BIASES,
    # Fields of Alibaba's own code that the class in transformers ignores.
    required={"layer_norm_type": "layer_norm", "position_embedding_type": "rope", "logn_attention_scale": False},
    trunk=ROTARY_TRUNK,
    layer=[*ROTARY_LAYER, *GATED],
    heads={
        "Model": Head(settings=TANH),
        "ForMaskedLM": Head(
            [
                *module("head.dense", "lm_head.dense"),
                *module("head.norm", "lm_head.layer_norm"),
                *module("decoder", "lm_head.decoder"),
            ],
            {**TANH, "hidden_act": "gelu"},
        ),
        "ForSequenceClassification": Head(CLASSIFIER, TANH),
        "ForTokenClassification": Head(CLASSIFIER, TANH),
    },
    read=read_rotary,
    write=write_rope,
    types_optional=True,
)
