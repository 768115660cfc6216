"""Nomic BERT (Nussbaum et al., 2024): nomic-embed-text v1 and v1.5, and others with its architecture."""

from __future__ import annotations

import copy
from typing import Any

from transformers import PreTrainedConfig

from ...configuration.presets import PRESETS
from .bert import CLASSIFIER, DECODER, FIELDS, POOLER, TANH, classifier_dropout
from .family import Family, Head, check_head_dim
from .key_mapping import SEPARATE_QKV, STACKED, Rule, module
from .rotary_fields import read_rope, write_rope

# Families with rotary positions whose classes in transformers share their names of weights.
ROTARY_TRUNK = [
    Rule("embed_tokens.weight", ("embeddings.word_embeddings.weight",)),
    Rule("embeddings.types.weight", ("embeddings.token_type_embeddings.weight",)),
    *module("embeddings.norm", "embeddings.LayerNorm"),
    *POOLER,
]
ROTARY_LAYER = [
    *module(
        "layers.{}.self_attn.qkv_proj",
        *(f"layers.{{}}.self_attn.{part}_proj" for part in "qkv"),
        layout=SEPARATE_QKV,
    ),
    *module("layers.{}.self_attn.o_proj", "layers.{}.self_attn.o_proj"),
    *module("layers.{}.attn_norm", "layers.{}.post_attention_layernorm"),
    *module("layers.{}.mlp_norm", "layers.{}.post_mlp_layernorm"),
]
GATED = [
    *module("layers.{}.mlp.gate_up_proj", "layers.{}.mlp.gate_proj", "layers.{}.mlp.up_proj", layout=STACKED),
    *module("layers.{}.mlp.down_proj", "layers.{}.mlp.down_proj"),
]


def _read(config: PreTrainedConfig) -> dict[str, Any]:
    check_head_dim(config)
    return {**classifier_dropout(config), **read_rope(_without_idle_scaling(config))}


def _without_idle_scaling(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the configuration without a scaling of positions that no text is long enough for.

    `dynamic` only scales texts of more than `max_position_embeddings` tokens. nomic-embed-text-v1 states it although it
    reads no more, and also states the factor for Nomic's own code, which scales from another length on.

    Raises:
        ValueError: If only the factor for Nomic's own code is stated, which the class in transformers ignores.
    """
    rope, factor = config.rope_parameters, getattr(config, "rotary_scaling_factor", None)
    if factor is not None and factor != rope.get("factor"):
        raise ValueError(
            f"rotary_scaling_factor={factor!r} is not supported: a SequenceEncoder needs rotary_scaling_factor=None."
        )
    longest = getattr(config, "n_positions", None)
    reached = not isinstance(longest, int) or longest > config.max_position_embeddings
    if reached or rope.get("rope_type") != "dynamic":
        return config
    plain = copy.copy(config)
    plain.rope_parameters = {"rope_type": "default", "rope_theta": rope.get("rope_theta")}
    return plain


NOMIC_BERT = Family(
    name="nomic_bert",
    model_prefixes=("NomicBert",),
    fields=FIELDS,
    settings={
        name: value
        for name, value in PRESETS["nomic"].items()
        if name not in FIELDS and name not in ("rope_parameters", "tie_word_embeddings", "pooler_act")
    },
    # Fields of Nomic's own code that the class in transformers ignores. Mixtures of experts have the same model type.
    required={
        "num_experts": 0,
        "activation_function": "swiglu",
        "prenorm": False,
        "parallel_block": False,
        "causal": False,
        "use_rms_norm": False,
        "qkv_proj_bias": False,
        "mlp_fc1_bias": False,
        "mlp_fc2_bias": False,
        "rotary_emb_fraction": 1.0,
        "rotary_emb_interleaved": False,
        "rotary_emb_scale_base": None,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
    },
    trunk=ROTARY_TRUNK,
    layer=[*ROTARY_LAYER, *GATED],
    heads={
        "Model": Head(settings=TANH),
        "ForMaskedLM": Head(
            [
                *module("head.dense", "cls.predictions.transform.dense"),
                *module("head.norm", "cls.predictions.transform.layer_norm"),
                *DECODER,
            ],
            TANH,
        ),
        "ForSequenceClassification": Head(CLASSIFIER, TANH),
        "ForTokenClassification": Head(CLASSIFIER, TANH),
    },
    read=_read,
    write=write_rope,
    renamed={
        "n_embd": "hidden_size",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_inner": "intermediate_size",
        "n_positions": "max_position_embeddings",
        "rotary_emb_base": "rope_theta",
        "layer_norm_epsilon": "layer_norm_eps",
        "resid_pdrop": "hidden_dropout_prob",
        "attn_pdrop": "attention_probs_dropout_prob",
    },
)
