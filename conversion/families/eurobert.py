"""EuroBERT (Boizard et al., 2025): pre-norm layers with RMS norms, rotary positions and grouped queries."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from ...configuration.presets import PRESETS
from ..family import SIZES, Family, Head, check_head_dim, read_rope, write_rope
from ..key_mapping import SEPARATE_QKV, STACKED, Rule, module
from .bert import CLASSIFIER, NO_POOLER

FIELDS = {
    name: name
    for name in (
        *SIZES,
        "num_key_value_heads",
        "hidden_act",
        "attention_bias",
        "mlp_bias",
        "attention_dropout",
        "initializer_range",
    )
} | {"norm_eps": "rms_norm_eps"}
TRUNK = [Rule("embed_tokens.weight", ("embed_tokens.weight",)), Rule("norm.weight", ("norm.weight",))]
LAYER = [
    Rule("layers.{}.attn_norm.weight", ("layers.{}.input_layernorm.weight",)),
    *module(
        "layers.{}.self_attn.qkv_proj",
        *(f"layers.{{}}.self_attn.{part}_proj" for part in "qkv"),
        layout=SEPARATE_QKV,
    ),
    *module("layers.{}.self_attn.o_proj", "layers.{}.self_attn.o_proj"),
    Rule("layers.{}.mlp_norm.weight", ("layers.{}.post_attention_layernorm.weight",)),
    *module("layers.{}.mlp.gate_up_proj", "layers.{}.mlp.gate_proj", "layers.{}.mlp.up_proj", layout=STACKED),
    *module("layers.{}.mlp.down_proj", "layers.{}.mlp.down_proj"),
]
# Their poolings, as the pooling and the placement of the dense layer. The last layer is linear, so that it does not
# matter whether "late" takes the mean before it or after it.
_POOLINGS = {"bos": ("cls", "after"), "mean": ("mean", "after"), "late": ("mean", "before")}


def _read(config: PreTrainedConfig) -> dict[str, Any]:
    check_head_dim(config)
    if config.classifier_pooling not in _POOLINGS:
        raise ValueError(
            f"classifier_pooling={config.classifier_pooling!r} is not supported: a SequenceEncoder needs one of "
            f"{', '.join(map(repr, _POOLINGS))}."
        )
    pooling, placement = _POOLINGS[config.classifier_pooling]
    return {
        **read_rope(config),
        "pooling": pooling,
        "pooler_placement": placement,
        "decoder_bias": config.mlp_bias,
        "mask_token_id": config.mask_token_id,
    }


def _write(config: PreTrainedConfig) -> dict[str, Any]:
    names = {value: name for name, value in _POOLINGS.items()}
    theirs = {**write_rope(config), "classifier_pooling": names.get((config.pooling, config.pooler_placement), "bos")}
    if config.mask_token_id is not None:
        theirs["mask_token_id"] = config.mask_token_id
    return theirs


EUROBERT = Family(
    name="eurobert",
    model_prefixes=("EuroBert",),
    fields=FIELDS,
    settings={
        name: value
        for name, value in PRESETS["eurobert"].items()
        if name not in FIELDS
        and not name.endswith("_token_id")
        and name not in ("tie_word_embeddings", "rope_parameters", "pooler_act", "pooler_placement", "decoder_bias")
    },
    required={},
    trunk=TRUNK,
    layer=LAYER,
    heads={
        "Model": Head(settings=NO_POOLER),
        "ForMaskedLM": Head(module("decoder", "lm_head"), NO_POOLER),
        "ForSequenceClassification": Head(
            [*module("model.pooler.dense", "dense"), *CLASSIFIER], {"pooler_act": "gelu"}
        ),
        "ForTokenClassification": Head(CLASSIFIER, NO_POOLER),
    },
    read=_read,
    write=_write,
    renamed={"clf_pooling": "classifier_pooling"},
)
