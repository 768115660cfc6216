"""The fields of config.json of published checkpoints, as their repositories on the Hub state them.

Fields that concern neither the architecture nor its class are left out.
"""

from __future__ import annotations

from typing import Any

_ALBERT: dict[str, Any] = {
    "architectures": ["AlbertForMaskedLM"],
    "attention_probs_dropout_prob": 0,
    "bos_token_id": 2,
    "classifier_dropout_prob": 0.1,
    "embedding_size": 128,
    "eos_token_id": 3,
    "hidden_act": "gelu_new",
    "hidden_dropout_prob": 0,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "inner_group_num": 1,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "albert",
    "num_attention_heads": 12,
    "num_hidden_groups": 1,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "type_vocab_size": 2,
    "vocab_size": 30000,
}
_ALBERT_V1 = {**_ALBERT, "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu", "hidden_dropout_prob": 0.1}
# Fields of the original code, which neither it nor transformers reads.
_ALBERT_UNREAD = {"down_scale_factor": 1, "gap_size": 0, "net_structure_type": 0, "num_memory_blocks": 0}
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


def _sizes(hidden_size: int, layers: int, heads: int) -> dict[str, int]:
    sizes = {"hidden_size": hidden_size, "intermediate_size": 4 * hidden_size}
    return {**sizes, "num_hidden_layers": layers, "num_attention_heads": heads}


PUBLISHED: dict[str, dict[str, Any]] = {
    "albert/albert-base-v1": _ALBERT_V1,
    "albert/albert-large-v1": {**_ALBERT_V1, **_sizes(1024, 24, 16)},
    "albert/albert-xlarge-v1": {**_ALBERT_V1, **_sizes(2048, 24, 16)},
    "albert/albert-xxlarge-v1": {**_ALBERT, **_sizes(4096, 12, 64), "hidden_act": "gelu"},
    "albert/albert-base-v2": {**_ALBERT, **_ALBERT_UNREAD},
    "albert/albert-large-v2": {**_ALBERT, **_sizes(1024, 24, 16)},
    "albert/albert-xlarge-v2": {**_ALBERT, **_sizes(2048, 24, 16)},
    "albert/albert-xxlarge-v2": {**_ALBERT, **_sizes(4096, 12, 64)},
    "voidful/albert_chinese_base": {
        **_ALBERT,
        **_ALBERT_UNREAD,
        "hidden_act": "relu",
        "layers_to_keep": [],
        "vocab_size": 21128,
    },
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
