"""DistilBERT (Sanh et al., 2019)."""

from __future__ import annotations

from ..family import Family, Head
from ..key_mapping import SEPARATE_QKV, Rule, module
from .bert import ANSWERS, CLASSIFIER, NO_POOLER, SETTINGS

_BEFORE_CLASSIFIER = Head([*module("model.pooler.dense", "pre_classifier"), *CLASSIFIER], {"pooler_act": "relu"})
_ATTENTION = "transformer.layer.{}.attention"


DISTILBERT = Family(
    name="distilbert",
    model_prefixes=("DistilBert",),
    fields={
        "vocab_size": "vocab_size",
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "max_position_embeddings": "max_position_embeddings",
        "hidden_act": "activation",
        "embedding_dropout": "dropout",
        "hidden_dropout": "dropout",
        "attention_dropout": "attention_dropout",
        "initializer_range": "initializer_range",
        "classifier_dropout": "seq_classif_dropout",
    },
    settings={**SETTINGS, "type_vocab_size": 0, "norm_eps": 1e-12},
    required={},
    trunk=[
        Rule("embed_tokens.weight", ("embeddings.word_embeddings.weight",)),
        Rule("embeddings.positions.table.weight", ("embeddings.position_embeddings.weight",)),
        *module("embeddings.norm", "embeddings.LayerNorm"),
    ],
    layer=[
        *module(
            "layers.{}.self_attn.qkv_proj",
            *(f"{_ATTENTION}.{part}" for part in ("q_lin", "k_lin", "v_lin")),
            layout=SEPARATE_QKV,
        ),
        *module("layers.{}.self_attn.o_proj", f"{_ATTENTION}.out_lin"),
        *module("layers.{}.attn_norm", "transformer.layer.{}.sa_layer_norm"),
        *module("layers.{}.mlp.up_proj", "transformer.layer.{}.ffn.lin1"),
        *module("layers.{}.mlp.down_proj", "transformer.layer.{}.ffn.lin2"),
        *module("layers.{}.mlp_norm", "transformer.layer.{}.output_layer_norm"),
    ],
    heads={
        "Model": Head(settings=NO_POOLER),
        "ForMaskedLM": Head(
            [
                *module("head.dense", "vocab_transform"),
                *module("head.norm", "vocab_layer_norm"),
                *module("decoder", "vocab_projector"),
            ],
            NO_POOLER,
        ),
        "ForSequenceClassification": _BEFORE_CLASSIFIER,
        "ForMultipleChoice": _BEFORE_CLASSIFIER,
        "ForTokenClassification": Head(CLASSIFIER, NO_POOLER, {"classifier_dropout": "dropout"}),
        "ForQuestionAnswering": Head(ANSWERS, NO_POOLER, {"classifier_dropout": "qa_dropout"}),
    },
)
