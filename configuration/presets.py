"""Presets: the configurations of well-known encoder families at base size, as keyword dictionaries."""

import copy
from typing import Any, TypeVar

from .layer_groups import with_overrides

_BERT: dict[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "position_embedding": "learned",
    "norm_eps": 1e-12,
    "hidden_act": "gelu",
    "scale_embeddings": False,
    "embedding_norm": True,
    "type_vocab_size": 2,
    "pooling": "cls",
    "pooler_act": "tanh",
    "prediction_head": "dense",
    "mlp_dropout": 0.0,
    "tie_word_embeddings": True,
    "initializer": "normal",
}

_NO_DROPOUT = {f"{part}_dropout": 0.0 for part in ("hidden", "attention", "mlp", "embedding", "classifier")}

PRESETS: dict[str, dict[str, Any]] = {
    # Vaswani et al., 2017: the defaults of the configuration.
    "vanilla": {},
    # Devlin et al., 2019.
    "bert": _BERT,
    # Liu et al., 2019.
    "roberta": {
        **_BERT,
        "vocab_size": 50265,
        "type_vocab_size": 1,
        "position_offset": 2,
        "norm_eps": 1e-5,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
    },
    # Sanh et al., 2019.
    "distilbert": {**_BERT, "num_hidden_layers": 6, "type_vocab_size": 0, "pooler_act": "relu"},
    # Song et al., 2020.
    "mpnet": {
        **_BERT,
        "vocab_size": 30527,
        "type_vocab_size": 0,
        "position_offset": 2,
        "position_bias": "bucketed",
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
    },
    # He et al., 2023.
    "deberta-v3": {
        **_BERT,
        "vocab_size": 128100,
        "position_embedding": "none",
        "position_bias": "disentangled",
        "pos_att_type": ["p2c", "c2p"],
        "share_att_key": True,
        "position_buckets": 256,
        "norm_rel_ebd": "layer_norm",
        "norm_eps": 1e-7,
        "embedding_projection": "before_norm",
        "type_vocab_size": 0,
        "pooler_act": "gelu",
        "pad_token_id": 0,
        "cls_token_id": 1,
        "sep_token_id": 2,
        "mask_token_id": 128000,
    },
    # Nussbaum et al., 2024.
    "nomic": {
        **_BERT,
        "vocab_size": 30528,
        "max_position_embeddings": 2048,
        "position_embedding": "rotary",
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1000.0}},
        "feed_forward": "glu",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        **_NO_DROPOUT,
    },
    # Boizard et al., 2025, with 210 million parameters. The larger ones have grouped queries.
    "eurobert": {
        "vocab_size": 128256,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 8192,
        "position_embedding": "rotary",
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 250_000.0}},
        "norm_placement": "pre",
        "norm": "rms_norm",
        "feed_forward": "glu",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "scale_embeddings": False,
        "pooler_act": "gelu",
        "pooler_placement": "before",
        "decoder_bias": False,
        **_NO_DROPOUT,
        "initializer": "normal",
        "bos_token_id": 128000,
        "eos_token_id": 128001,
        "pad_token_id": 128001,
        "mask_token_id": 128002,
    },
    # Warner et al., 2024: tokens attend to the whole text in every third layer, and to 64 tokens on each side in the
    # others.
    "modernbert": {
        "vocab_size": 50368,
        "hidden_size": 768,
        "num_hidden_layers": 22,
        "num_attention_heads": 12,
        "intermediate_size": 1152,
        "max_position_embeddings": 8192,
        "position_embedding": "rotary",
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 160_000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
        "norm_placement": "pre",
        "norm_bias": False,
        "feed_forward": "glu",
        "hidden_act": "gelu",
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        "sliding_window": 64,
        "attention_bias": False,
        "mlp_bias": False,
        "scale_embeddings": False,
        "embedding_norm": True,
        "pooling": "cls",
        "prediction_head": "dense",
        "classifier_head": "dense",
        "head_bias": False,
        "tie_word_embeddings": True,
        **_NO_DROPOUT,
        "initializer": "normal",
        "pad_token_id": 50283,
        "cls_token_id": 50281,
        "sep_token_id": 50282,
    },
}

AnyConfig = TypeVar("AnyConfig")


def static_fields(vocab_size: int, hidden_size: int) -> dict[str, Any]:
    """Return the fields of an encoder that is only a table of token vectors."""
    return {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "num_hidden_layers": 0,
        "num_attention_heads": 1,
        "position_embedding": "none",
        "scale_embeddings": False,
        "initializer": "normal",
        **_NO_DROPOUT,
    }


# Each has an id in a configuration, and in a tokenizer.
_SPECIAL_TOKENS = ("pad", "bos", "eos", "cls", "sep", "mask")


class PresetsMixin:
    """Mixin that gives a configuration the method `from_preset`."""

    @classmethod
    def from_preset(cls: type[AnyConfig], name: str, *, tokenizer: Any = None, **overrides: Any) -> AnyConfig:
        """Return the configuration of a well-known encoder family at base size.

        Args:
            name: `vanilla`, `bert`, `roberta`, `distilbert`, `mpnet`, `deberta-v3`, `nomic`, `eurobert` or
                `modernbert`.
            tokenizer: A tokenizer of transformers, which sets `vocab_size` and the ids of the special tokens. Ids of
                tokens that it does not have become None.
            **overrides: Fields to change. If `num_hidden_layers` is changed alone, the pattern of layer types is cut or
                repeated to fit.

        Raises:
            ValueError: If no preset has that name.
        """
        if name not in PRESETS:
            raise ValueError(f"There is no preset {name!r}; choose one of {', '.join(PRESETS)}.")
        if tokenizer is not None:
            ids = {f"{token}_token_id": getattr(tokenizer, f"{token}_token_id", None) for token in _SPECIAL_TOKENS}
            overrides = {"vocab_size": len(tokenizer), **ids, **overrides}
        return cls(**with_overrides(copy.deepcopy(PRESETS[name]), overrides))
