"""Nomic BERT in the format of its code on the Hub, for the classes that transformers lacks or names differently."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from .bert import CLASSIFIER, FIELDS, POOLER, TANH
from .family import Head
from .key_mapping import STACKED, STACKED_QKV, Rule, Tensors, module
from .nomic_bert import NOMIC_BERT
from .remote_code_family import RemoteCodeFamily, share

_MULTIPLE = 256


def _rounded_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _read(config: Any) -> dict[str, Any]:
    width = config.intermediate_size
    if width is None:
        width = int(8 * config.hidden_size / 3)
    if type(width) is not int:
        raise ValueError(f"n_inner must be a number, got {width!r}.")
    dropout = config.classifier_dropout
    return {
        "vocab_size": _rounded_up(config.vocab_size, max(config.pad_vocab_size_multiple, 1)),
        "intermediate_size": _rounded_up(width, _MULTIPLE),
        "classifier_dropout": config.embd_pdrop if dropout is None else dropout,
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": float(config.rope_theta)}},
    }


def _complete(tensors: Tensors, config: SimpleNamespace) -> None:
    """Add the tied output embeddings, and the zero bias of an output layer without bias."""
    if "cls.predictions.transform.dense.weight" not in tensors:
        return
    if config.tie_word_embeddings:
        share(tensors, "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight")
    weight = tensors.get("cls.predictions.decoder.weight")
    if weight is not None and "cls.predictions.decoder.bias" not in tensors:
        tensors["cls.predictions.decoder.bias"] = weight.new_zeros(len(weight))


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
        read=_read,
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
    complete=_complete,
)
