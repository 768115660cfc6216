"""Parameters counted from a configuration are those of the model, whatever its architecture and its head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import sequence_encoder
from sequence_encoder import PRESETS, SequenceEncoderConfig
from sequence_encoder.configuration.parameter_count import count_parameters
from sequence_encoder.saving.auto_classes import of_type

# Every field that changes the number of parameters, and that the presets leave as it is by default.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{preset: (preset, {}) for preset in PRESETS},
    "shared layers": ("bert", {"num_hidden_layers": 4, "num_hidden_groups": 2}),
    "shared pre-norm layers": ("modernbert", {"num_hidden_layers": 2, "num_hidden_groups": 1, "layer_types": None}),
    "all attention norms": ("modernbert", {"first_attn_norm": True}),
    "no norm before the layers": ("modernbert", {"embedding_norm": False}),
    "no layers": ("modernbert", {"num_hidden_layers": 0}),
    "grouped queries": ("eurobert", {"num_attention_heads": 6, "num_key_value_heads": 2}),
    "narrow embeddings": ("bert", {"embedding_size": 14}),
    "narrow embeddings before the norm": ("deberta-v3", {"embedding_size": 14}),
    "own projections of distances": ("deberta-v3", {"share_att_key": False, "norm_rel_ebd": "none"}),
    "one product with distances": ("deberta-v3", {"share_att_key": False, "pos_att_type": ["c2p"]}),
    "distances without buckets": ("deberta-v3", {"position_buckets": None, "max_relative_positions": 9}),
    "a convolution": ("deberta-v3", {"conv_kernel_size": 3}),
    "a convolution without a norm": ("modernbert", {"conv_kernel_size": 5}),
    "task types": ("bert", {"task_type_vocab_size": 3}),
    "biases": ("bert", {"attention_bias": False, "mlp_bias": False, "mlp_down_bias": True, "norm_bias": False}),
    "no head biases": ("bert", {"classifier_head": "dense", "head_bias": False, "decoder_bias": False}),
    "untied vocabulary": ("bert", {"tie_word_embeddings": False, "output_embedding_size": 22}),
    "two dense layers": ("vanilla", {"prediction_head": "mlp", "prediction_head_size": 26}),
    "tied to narrow embeddings": ("bert", {"embedding_size": 14, "tie_word_embeddings": True}),
    "narrow token vectors": ("bert", {"multi_vector_size": 10, "num_labels": 5}),
    "scores of normalised labels": ("bert", {"zero_shot_classification": {"scorer": "mlp", "normalize": True}}),
    "weighted scores": ("bert", {"zero_shot_classification": {"scorer": "weighted_dot", "hidden_size": 30}}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_count_is_that_of_the_model(tiny_config: Callable[..., SequenceEncoderConfig], variant: str) -> None:
    preset, fields = VARIANTS[variant]
    config = tiny_config(preset, **fields)
    for name in of_type("sequence_encoder"):
        with torch.device("meta"):
            model = getattr(sequence_encoder, name)(config)
        assert count_parameters(config, name) == model.num_parameters(), name
