"""NeoBERT (Le Breton et al., 2025), whose code is on the Hub: chandar-lab/NeoBERT and models trained from it."""

from __future__ import annotations

from typing import Any

from ..family import Family, Head, RemoteCodeFamily
from ..key_mapping import QKV_OF_ADJACENT_PAIRS, Rule, module

_MULTIPLE = 8


def _read(config: Any) -> dict[str, Any]:
    if str(config.hidden_act).lower() != "swiglu":
        raise ValueError(f"hidden_act={config.hidden_act!r} is not supported: NeoBERT needs hidden_act='swiglu'.")
    # The code takes two thirds of the width that the configuration states, because a gated network has three matrices.
    width = int(2 * config.intermediate_size / 3)
    return {"intermediate_size": _MULTIPLE * ((width + _MULTIPLE - 1) // _MULTIPLE)}


NEOBERT = RemoteCodeFamily(
    Family(
        name="neobert",
        model_prefixes=("NeoBERT",),
        fields={
            **{
                name: name
                for name in (
                    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"),
                    *("norm_eps", "classifier_dropout"),
                )
            },
            "max_position_embeddings": "max_length",
            "initializer_range": "decoder_init_range",
        },
        settings={
            "position_embedding": "rotary",
            "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10_000.0}},
            "norm_placement": "pre",
            "norm": "rms_norm",
            "feed_forward": "glu",
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "scale_embeddings": False,
            "pooling": "cls",
            **{f"{part}_dropout": 0.0 for part in ("hidden", "attention", "mlp", "embedding")},
            "initializer": "normal",
        },
        # Its code never ties the output embeddings. The other fields are those of the code for pretraining.
        required={"tie_word_embeddings": False, "rope": True, "rms_norm": True, "ngpt": False},
        trunk=[Rule("embed_tokens.weight", ("encoder.weight",)), Rule("norm.weight", ("layer_norm.weight",))],
        layer=[
            Rule(f"layers.{{}}.{ours}.weight", (f"transformer_encoder.{{}}.{theirs}.weight",), layout)
            for ours, theirs, layout in (
                ("attn_norm", "attention_norm", Rule.layout),
                ("self_attn.qkv_proj", "qkv", QKV_OF_ADJACENT_PAIRS),
                ("self_attn.o_proj", "wo", Rule.layout),
                ("mlp_norm", "ffn_norm", Rule.layout),
                ("mlp.gate_up_proj", "ffn.w12", Rule.layout),
                ("mlp.down_proj", "ffn.w3", Rule.layout),
            )
        ],
        heads={
            "Model": Head(settings={"pooler_act": None}),
            "ForMaskedLM": Head(module("decoder", "decoder"), {"pooler_act": None}),
            "ForSequenceClassification": Head(
                [*module("model.pooler.dense", "dense"), *module("classifier", "classifier")], {"pooler_act": "tanh"}
            ),
        },
        read=_read,
    ),
    classes={
        "NeoBERT": "Model",
        "NeoBERTLMHead": "ForMaskedLM",
        "NeoBERTForSequenceClassification": "ForSequenceClassification",
    },
    defaults={
        "hidden_size": 768,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "decoder_init_range": 0.02,
        "norm_eps": 1e-6,
        "vocab_size": 30522,
        "pad_token_id": 0,
        "max_length": 1024,
        "classifier_dropout": 0.1,
        "hidden_act": "swiglu",
        "tie_word_embeddings": False,
    },
    base_model_prefix="model",
    model_types=("neobert",),
    without_effect=(
        *("embedding_init_range", "encoder_init_range", "classifier_init_range", "dim_head", "dropout", "kwargs"),
        *("flash_attention", "pretrained_model_name_or_path", "trust_remote_code", "max_position_embeddings"),
    ),
)
