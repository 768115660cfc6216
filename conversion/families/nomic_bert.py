"""Nomic BERT (Nussbaum et al., 2024): nomic-embed-text v1 and v1.5, and others with its architecture.

Its checkpoints have the format of transformers or that of Nomic's own code on the Hub.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from transformers import PreTrainedConfig

from ...configuration.presets import PRESETS
from ..family import Family, Head, RemoteCodeFamily, check_head_dim, read_rope, share, write_rope
from ..key_mapping import SEPARATE_QKV, STACKED, STACKED_QKV, Rule, Tensors, module
from .bert import CLASSIFIER, DECODER, FIELDS, POOLER, TANH, classifier_dropout

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
# Nomic's own code rounds the width of its feed-forward networks up to a multiple of this.
_WIDTH_MULTIPLE = 256


def read_rotary(config: PreTrainedConfig) -> dict[str, Any]:
    """Return the fields of families like BERT with rotary positions that are not only renamed."""
    return {**classifier_dropout(config), **read_rope(config)}


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


def _rounded_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _read_remote_code(config: Any) -> dict[str, Any]:
    width = config.intermediate_size
    if width is None:
        width = int(8 * config.hidden_size / 3)
    if type(width) is not int:
        raise ValueError(f"n_inner must be a number, got {width!r}.")
    dropout = config.classifier_dropout
    return {
        "vocab_size": _rounded_up(config.vocab_size, max(config.pad_vocab_size_multiple, 1)),
        "intermediate_size": _rounded_up(width, _WIDTH_MULTIPLE),
        "classifier_dropout": config.embd_pdrop if dropout is None else dropout,
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": float(config.rope_theta)}},
    }


def _complete_remote_code(tensors: Tensors, config: SimpleNamespace) -> None:
    """Add the tied output embeddings, and the zero bias of an output layer without bias."""
    if "cls.predictions.transform.dense.weight" not in tensors:
        return
    if config.tie_word_embeddings:
        share(tensors, "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight")
    weight = tensors.get("cls.predictions.decoder.weight")
    if weight is not None and "cls.predictions.decoder.bias" not in tensors:
        tensors["cls.predictions.decoder.bias"] = weight.new_zeros(len(weight))


# The format of Nomic's own code, for the classes that transformers lacks or names differently.
NOMIC_REMOTE_CODE = RemoteCodeFamily(
    replace(
        NOMIC_BERT,
        fields={name: theirs for name, theirs in FIELDS.items() if name != "hidden_act"},
        settings={**NOMIC_BERT.settings, "hidden_act": "silu"},
        required={**NOMIC_BERT.required, "norm_mlp": False, "rotary_scaling_factor": None},
        trunk=[
            Rule("embed_tokens.weight", ("embeddings.word_embeddings.weight",)),
            Rule("embeddings.types.weight", ("embeddings.token_type_embeddings.weight",)),
            *module("embeddings.norm", "emb_ln"),
            *POOLER,
        ],
        layer=[
            *module("layers.{}.self_attn.qkv_proj", "encoder.layers.{}.attn.Wqkv", layout=STACKED_QKV),
            *module("layers.{}.self_attn.o_proj", "encoder.layers.{}.attn.out_proj"),
            *module("layers.{}.attn_norm", "encoder.layers.{}.norm1"),
            # The second matrix is the gate.
            *module(
                "layers.{}.mlp.gate_up_proj",
                *(f"encoder.layers.{{}}.mlp.{part}" for part in ("fc12", "fc11")),
                layout=STACKED,
            ),
            *module("layers.{}.mlp.down_proj", "encoder.layers.{}.mlp.fc2"),
            *module("layers.{}.mlp_norm", "encoder.layers.{}.norm2"),
        ],
        heads={
            "Model": Head(settings=TANH),
            "ForMaskedLM": Head(
                [
                    *module("head.dense", "cls.predictions.transform.dense"),
                    *module("head.norm", "cls.predictions.transform.layer_norm"),
                    *module("decoder", "cls.predictions.decoder"),
                ],
                {**TANH, "head_bias": False},
            ),
            "ForSequenceClassification": Head(CLASSIFIER, TANH),
        },
        read=_read_remote_code,
        types_optional=True,
    ),
    # Its class for pretraining predicts masked tokens only.
    classes={
        "NomicBertForPreTraining": "ForMaskedLM",
        "NomicBertForMaskedLM": "ForMaskedLM",
        "NomicBertForSequenceClassification": "ForSequenceClassification",
    },
    defaults={
        "vocab_size": 50257,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": None,
        "max_position_embeddings": 1024,
        "type_vocab_size": 2,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-5,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "embd_pdrop": 0.1,
        "pad_token_id": 0,
        "classifier_dropout": None,
        "rope_theta": 10_000.0,
        "pad_vocab_size_multiple": 1,
        "activation_function": "gelu_new",
        "qkv_proj_bias": True,
        "mlp_fc1_bias": True,
        "mlp_fc2_bias": True,
        "rotary_emb_fraction": 0.0,
    },
    base_model_prefix="bert",
    core="nomic_bert",
    renamed_weights=("NomicBertForMaskedLM", "NomicBertForSequenceClassification"),
    without_effect=(
        *("add_pooling_layer", "dense_seq_output", "fused_bias_fc", "fused_dropout_add_ln", "last_layer_subset"),
        *("max_trained_positions", "parallel_block_tied_norm", "reorder_and_upcast_attn", "use_flash_attn"),
        *("use_xentropy", "rope_parameters", "n_ctx", "head_dim", "summary_type", "summary_use_proj"),
        *("summary_activation", "summary_first_dropout", "summary_proj_to_labels", "embedding_dropout"),
        *("ffn_div", "moe_every_n_layers", "moe_normalize_expert_weights", "moe_top_k", "num_shared_experts"),
        *("expert_choice_router", "hidden_act"),
    ),
    complete=_complete_remote_code,
)
