"""The fields of config.json of published checkpoints, as their repositories on the Hub state them.

Fields that concern neither the architecture nor its class are left out.
"""

from __future__ import annotations

from typing import Any

_NOMIC: dict[str, Any] = {
    "architectures": ["NomicBertModel"],
    "activation_function": "swiglu",
    "attn_pdrop": 0.0,
    "causal": False,
    "embd_pdrop": 0.0,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-12,
    "max_trained_positions": 2048,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "model_type": "nomic_bert",
    "n_embd": 768,
    "n_head": 12,
    "n_inner": 3072,
    "n_layer": 12,
    "n_positions": 8192,
    "parallel_block": False,
    "parallel_block_tied_norm": False,
    "prenorm": False,
    "qkv_proj_bias": False,
    "resid_pdrop": 0.0,
    "rotary_emb_base": 1000,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
    "rotary_scaling_factor": None,
    "scale_attn_by_inverse_layer_idx": False,
    "scale_attn_weights": True,
    "type_vocab_size": 2,
    "use_rms_norm": False,
    "vocab_size": 30528,
}

_GTE: dict[str, Any] = {
    "attention_probs_dropout_prob": 0.0,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "layer_norm_type": "layer_norm",
    "logn_attention_clip1": False,
    "logn_attention_scale": False,
    "max_position_embeddings": 8192,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pack_qkv": True,
    "pad_token_id": 1,
    "position_embedding_type": "rope",
    "type_vocab_size": 1,
    "vocab_size": 250048,
}

PUBLISHED: dict[str, dict[str, Any]] = {
    "nomic-ai/nomic-embed-text-v1.5": {
        **_NOMIC,
        "max_position_embeddings": 2048,
        "rope_parameters": {"rope_theta": 1000.0, "rope_type": "default"},
    },
    # An earlier revision, before transformers had this family.
    "nomic-ai/nomic-embed-text-v1.5@6ce67c1": {**_NOMIC, "embd_pdrop": 0.1, "resid_pdrop": 0.1},
    "nomic-ai/nomic-embed-text-v2-moe": {
        **_NOMIC,
        "activation_function": "gelu",
        "add_pooling_layer": False,
        "expert_choice_router": False,
        "ffn_div": 1,
        "layer_norm_epsilon": 1e-5,
        "mlp_fc1_bias": True,
        "mlp_fc2_bias": True,
        "moe_every_n_layers": 2,
        "moe_normalize_expert_weights": False,
        "moe_top_k": 2,
        "num_experts": 8,
        "num_shared_experts": 0,
        "qkv_proj_bias": True,
        "type_vocab_size": 1,
    },
    "Snowflake/snowflake-arctic-embed-m-v2.0": {
        **_GTE,
        "architectures": ["GteModel"],
        "classifier_dropout": 0.1,
        "model_type": "gte",
        "rope_scaling": None,
        "rope_theta": 160000,
        "unpad_inputs": "true",
        "use_memory_efficient_attention": "true",
    },
}
