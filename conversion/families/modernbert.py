"""ModernBERT (Warner et al., 2024), including Ettin (Weller et al., 2025)."""

from __future__ import annotations

import copy
from typing import Any

from transformers import PreTrainedConfig

from ...configuration.presets import PRESETS
from ..family import SIZES, Family, Head
from ..key_mapping import STACKED_QKV, Rule, module

_FIELDS = {
    name: name
    for name in (
        *SIZES,
        "layer_types",
        "norm_eps",
        "norm_bias",
        "attention_bias",
        "mlp_bias",
        "attention_dropout",
        "embedding_dropout",
        "mlp_dropout",
        "classifier_dropout",
        "initializer_range",
        "cls_token_id",
        "sep_token_id",
    )
} | {"hidden_act": "hidden_activation", "pooling": "classifier_pooling", "head_bias": "classifier_bias"}
_DENSE = [*module("head.dense", "head.dense"), *module("head.norm", "head.norm")]
# The heads must use the activation of the layers, because our configuration has one field for both.
_SAME = {"classifier_activation": "hidden_activation"}
_CLASSIFIER = Head([*_DENSE, *module("classifier", "classifier")], same=_SAME)
_ANSWERS = Head([*_DENSE, *module("qa_outputs", "classifier")], same=_SAME)


def _read(config: PreTrainedConfig) -> dict[str, Any]:
    present = set(config.layer_types)
    return {
        "sliding_window": config.local_attention // 2 if "sliding_attention" in present else None,
        "rope_parameters": {name: dict(rope) for name, rope in config.rope_parameters.items() if name in present},
    }


def _write(config: PreTrainedConfig) -> dict[str, Any]:
    window = {} if config.sliding_window is None else {"local_attention": 2 * config.sliding_window}
    return {
        **window,
        "rope_parameters": copy.deepcopy(config.rope_parameters),
        "classifier_activation": config.hidden_act,
    }


MODERNBERT = Family(
    name="modernbert",
    model_prefixes=("ModernBert",),
    fields=_FIELDS,
    settings={
        name: value
        for name, value in PRESETS["modernbert"].items()
        if name not in _FIELDS
        and name not in ("rope_parameters", "sliding_window", "tie_word_embeddings", "pad_token_id")
    }
    | {"norm": "layer_norm", "type_vocab_size": 0, "pooler_act": None},
    required={},
    trunk=[
        Rule("embed_tokens.weight", ("embeddings.tok_embeddings.weight",)),
        *module("embeddings.norm", "embeddings.norm"),
        *module("norm", "final_norm"),
    ],
    layer=[
        *module("layers.{}.attn_norm", "layers.{}.attn_norm"),
        *module("layers.{}.self_attn.qkv_proj", "layers.{}.attn.Wqkv", layout=STACKED_QKV),
        *module("layers.{}.self_attn.o_proj", "layers.{}.attn.Wo"),
        *module("layers.{}.mlp_norm", "layers.{}.mlp_norm"),
        *module("layers.{}.mlp.gate_up_proj", "layers.{}.mlp.Wi"),
        *module("layers.{}.mlp.down_proj", "layers.{}.mlp.Wo"),
    ],
    heads={
        "Model": Head(),
        "ForMaskedLM": Head(
            [*_DENSE, *module("decoder", "decoder")], fields={"decoder_bias": "decoder_bias"}, same=_SAME
        ),
        "ForSequenceClassification": _CLASSIFIER,
        "ForMultipleChoice": _CLASSIFIER,
        "ForTokenClassification": _CLASSIFIER,
        "ForQuestionAnswering": _ANSWERS,
    },
    read=_read,
    write=_write,
)
