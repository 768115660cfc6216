"""The fields of config.json of published checkpoints, as their repositories on the Hub state them.

Fields that concern neither the architecture nor its class are left out.
"""

from __future__ import annotations

from typing import Any

_EUROBERT: dict[str, Any] = {
    "architectures": ["EuroBertForMaskedLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_eurobert.EuroBertConfig",
        "AutoModel": "modeling_eurobert.EuroBertModel",
        "AutoModelForMaskedLM": "modeling_eurobert.EuroBertForMaskedLM",
    },
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "hidden_act": "silu",
    "hidden_dropout": 0.0,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "is_decoder": False,
    "mask_token_id": 128002,
    "max_position_embeddings": 8192,
    "model_type": "eurobert",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "num_key_value_heads": 12,
    "pad_token_id": 128001,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 250000,
    "tie_word_embeddings": False,
    "vocab_size": 128256,
}

PUBLISHED: dict[str, dict[str, Any]] = {
    "EuroBERT/EuroBERT-210m": _EUROBERT,
    "EuroBERT/EuroBERT-2.1B": {
        **_EUROBERT,
        "hidden_size": 2304,
        "intermediate_size": 6144,
        "num_attention_heads": 18,
        "num_hidden_layers": 32,
        "num_key_value_heads": 6,
    },
    "hf-internal-testing/tiny-random-EuroBertForMaskedLM": {
        "architectures": ["EuroBertForMaskedLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 128000,
        "classifier_pooling": "late",
        "eos_token_id": 128001,
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_dropout": 0.0,
        "hidden_size": 32,
        "initializer_range": 0.02,
        "intermediate_size": 64,
        "is_causal": False,
        "is_decoder": False,
        "mask_token_id": 128002,
        "max_position_embeddings": 8192,
        "mlp_bias": False,
        "model_type": "eurobert",
        "num_attention_heads": 2,
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "pad_token_id": 128001,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_parameters": {"rope_theta": 250000, "rope_type": "default"},
        "tie_word_embeddings": False,
        "use_cache": False,
        "vocab_size": 128256,
    },
}
