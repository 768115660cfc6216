"""GTE (Zhang et al., 2024): multilingual GTE, Snowflake's arctic-embed-m-v2.0, and others with its architecture.

Its checkpoints have the format of transformers or that of Alibaba's own code on the Hub (`NewModel`), such as
gte-base-en-v1.5 and gte-multilingual-base.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ..family import Family, Head, RemoteCodeFamily, share, write_rope
from ..key_mapping import SEPARATE_QKV, STACKED_QKV, Layout, Rule, Tensors, concatenated, module
from .bert import CLASSIFIER, FIELDS, TANH, TASK_HEADS, classifier_dropout
from .nomic_bert import GATED, NOMIC_BERT, ROTARY_LAYER, ROTARY_TRUNK, read_rotary

if TYPE_CHECKING:
    import torch

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


def _swapped(tensor: torch.Tensor) -> torch.Tensor:
    return concatenated(tensor.chunk(2)[::-1])


# The gate is the second half of the matrix in Alibaba's own code, and the first half of ours.
_GATE_LAST = Layout(lambda tensors, heads: _swapped(tensors[0]), lambda tensor, heads, count: [_swapped(tensor)])
_REMOTE_LAYER = [
    *module("layers.{}.self_attn.o_proj", "encoder.layer.{}.attention.o_proj"),
    *module("layers.{}.attn_norm", "encoder.layer.{}.attn_ln"),
    *module("layers.{}.mlp_norm", "encoder.layer.{}.mlp_ln"),
    Rule("layers.{}.mlp.gate_up_proj.weight", ("encoder.layer.{}.mlp.up_gate_proj.weight",), _GATE_LAST),
    *module("layers.{}.mlp.down_proj", "encoder.layer.{}.mlp.down_proj"),
]
_REMOTE_PACKED_QKV = module("layers.{}.self_attn.qkv_proj", "encoder.layer.{}.attention.qkv_proj", layout=STACKED_QKV)
_REMOTE_SEPARATE_QKV = module(
    "layers.{}.self_attn.qkv_proj",
    *(f"encoder.layer.{{}}.attention.{part}_proj" for part in "qkv"),
    layout=SEPARATE_QKV,
)


def _read_remote_rope(config: Any) -> dict[str, Any]:
    """Return our rotary parameters for theirs.

    With `ntk` and a factor s, the code multiplies θ by s and divides all frequencies by s^(2 / C), for texts of any
    length. This is the same as positions that are scaled linearly, with another θ.
    """
    scaling = config.rope_scaling
    if scaling is None:
        return {"rope_type": "default", "rope_theta": config.rope_theta}
    given: dict[str, Any] = scaling if isinstance(scaling, dict) else {}
    factor: Any = given.get("factor")
    valid = type(factor) in (int, float) and factor >= 1
    if given.get("type") != "ntk" or given.get("mixed_b") is not None or not valid:
        raise ValueError(
            f"rope_scaling={scaling!r} is not supported: it must be null, or have the type 'ntk' with a factor of at "
            "least 1 and without mixed_b."
        )
    channels = config.hidden_size // max(config.num_attention_heads, 1)
    return {
        "rope_type": "linear",
        "rope_theta": float(config.rope_theta * factor),
        "factor": float(factor ** (2 / max(channels, 1))),
    }


def _read_remote_code(config: Any) -> dict[str, Any]:
    return {**classifier_dropout(config), "rope_parameters": {"full_attention": _read_remote_rope(config)}}


def _remote_variant(table: Family, config: Any) -> Family:
    return table if config.pack_qkv else replace(table, layer=[*_REMOTE_LAYER, *_REMOTE_SEPARATE_QKV])


def _complete_remote_code(tensors: Tensors, config: SimpleNamespace) -> None:
    if config.tie_word_embeddings and "lm_head.decoder.bias" in tensors:
        share(tensors, "new.embeddings.word_embeddings.weight", "lm_head.decoder.weight")


# The format of Alibaba's own code, whose classes transformers does not have.
GTE_REMOTE_CODE = RemoteCodeFamily(
    replace(
        GTE,
        name="new",
        model_prefixes=("New",),
        layer=[*_REMOTE_LAYER, *_REMOTE_PACKED_QKV],
        heads={
            "Model": Head(settings=TANH),
            "ForMaskedLM": Head(
                [
                    *module("head.dense", "lm_head.dense"),
                    *module("head.norm", "lm_head.norm"),
                    *module("decoder", "lm_head.decoder"),
                ],
                TANH,
            ),
            **TASK_HEADS,
        },
        read=lambda config: {
            **classifier_dropout(config),
            "rope_parameters": {"full_attention": _read_remote_rope(config)},
        },
    ),
    classes={
        f"New{head}": head
        for head in (
            *("Model", "ForMaskedLM", "ForSequenceClassification", "ForMultipleChoice"),
            *("ForTokenClassification", "ForQuestionAnswering"),
        )
    },
    defaults={
        "vocab_size": 30528,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.0,
        "max_position_embeddings": 2048,
        "type_vocab_size": 1,
        "initializer_range": 0.02,
        "layer_norm_type": "layer_norm",
        "layer_norm_eps": 1e-12,
        "position_embedding_type": "rope",
        "rope_theta": 10_000.0,
        "rope_scaling": None,
        "classifier_dropout": None,
        "pack_qkv": True,
        "logn_attention_scale": False,
    },
    base_model_prefix="new",
    model_types=("new",),
    core="gte",
    without_effect=("unpad_inputs", "use_memory_efficient_attention", "logn_attention_clip1"),
    variant=lambda table, config: (
        table if config.pack_qkv else replace(table, layer=[*_REMOTE_LAYER, *_REMOTE_SEPARATE_QKV])
    ),
    complete=_complete_remote_code,
)
