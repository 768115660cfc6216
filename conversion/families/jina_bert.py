"""JinaBERT (Günther et al., 2023), whose code is on the Hub: jina-embeddings-v2 and jina-reranker-v1."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from ..family import RemoteCodeFamily, share
from ..key_mapping import Rule, Tensors, module
from .bert import BERT, LAYER, POOLER, REQUIRED, SETTINGS, TRUNK, classifier_dropout

# The activation of the gate is that of `feed_forward_type`, whatever `hidden_act` says.
_ACTIVATIONS = {"geglu": "gelu", "reglu": "relu"}
_NORMED_QUERIES = (
    "{} is not supported: its layers normalise queries and keys, as those of jina-embeddings-v2-base-code do, "
    "which a SequenceEncoder does not."
)


def _read(config: Any) -> dict[str, Any]:
    places = {"auto_map": str(config.auto_map), "_name_or_path": str(config._name_or_path)}
    for name, place in places.items():
        if "qk-post-norm" in place:
            raise ValueError(_NORMED_QUERIES.format(f"{name}={getattr(config, name)!r}"))
    if config.feed_forward_type not in _ACTIVATIONS:
        raise ValueError(
            f"feed_forward_type={config.feed_forward_type!r} is not supported: choose one of {', '.join(_ACTIVATIONS)}."
        )
    return {"hidden_act": _ACTIVATIONS[config.feed_forward_type], **classifier_dropout(config)}


def _complete(tensors: Tensors, config: SimpleNamespace) -> None:
    if normed := [name for name in tensors if ".layer_norm_q." in name]:
        raise ValueError(_NORMED_QUERIES.format(f"The tensor {normed[0]}"))
    share(tensors, "cls.predictions.decoder.bias", "cls.predictions.bias")
    if config.tie_word_embeddings and "cls.predictions.bias" in tensors:
        share(tensors, "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight")


_PREDICTING = {"feed_forward_type": "geglu", "hidden_act": "gelu"}
_POST_NORM_GATED = [
    Rule("layers.{}.mlp.gate_up_proj.weight", ("encoder.layer.{}.mlp.gated_layers.weight",)),
    *module("layers.{}.mlp.down_proj", "encoder.layer.{}.mlp.wo"),
    *module("layers.{}.mlp_norm", "encoder.layer.{}.mlp.layernorm"),
]
_BERT_FEED_FORWARD = ("layers.{}.mlp.", "layers.{}.mlp_norm.")

JINA_BERT = RemoteCodeFamily(
    replace(
        BERT,
        name="jina_bert",
        model_prefixes=("JinaBert",),
        fields={name: theirs for name, theirs in BERT.fields.items() if name != "hidden_act"}
        | {"mlp_dropout": "hidden_dropout_prob"},
        settings={name: value for name, value in SETTINGS.items() if name != "mlp_dropout"}
        | {
            "position_embedding": "none",
            "position_bias": "alibi",
            "feed_forward": "glu",
            "mlp_bias": False,
            "mlp_down_bias": True,
        },
        required={**REQUIRED, "position_embedding_type": "alibi"},
        trunk=[*(rule for rule in TRUNK if "positions" not in rule.ours), *POOLER],
        layer=[*(rule for rule in LAYER if not rule.ours.startswith(_BERT_FEED_FORWARD)), *_POST_NORM_GATED],
        heads={
            name: replace(head, required=_PREDICTING) if name in ("ForMaskedLM", "ForPreTraining") else head
            for name, head in BERT.heads.items()
        },
        read=_read,
    ),
    classes={f"JinaBert{head}": head for head in BERT.heads},
    defaults={
        "vocab_size": 30522,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "classifier_dropout": None,
        "feed_forward_type": "original",
        "auto_map": None,
        "_name_or_path": None,
    },
    base_model_prefix="bert",
    without_effect=("emb_pooler", "attn_implementation", "gradient_checkpointing", "model_max_length"),
    complete=_complete,
)
