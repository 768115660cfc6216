"""RemBERT (Chung et al., 2021): BERT with narrow input embeddings and wide output embeddings."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from ..family import Family, Head
from ..key_mapping import module
from .bert import FIELDS, LAYER, POOLER, REQUIRED, SETTINGS, TANH, TASK_HEADS, TRUNK, check_projected


def _read(config: PreTrainedConfig) -> dict[str, Any]:
    check_projected(config, "input_embedding_size")
    return {}


REMBERT = Family(
    name="rembert",
    model_prefixes=("RemBert",),
    fields=FIELDS
    | {
        "embedding_size": "input_embedding_size",
        "output_embedding_size": "output_embedding_size",
        "classifier_dropout": "classifier_dropout_prob",
    },
    # Its class never ties the output embeddings to the input embeddings.
    settings={**SETTINGS, "tie_word_embeddings": False},
    required=REQUIRED,
    trunk=[*TRUNK, *POOLER, *module("embeddings.projection", "encoder.embedding_hidden_mapping_in")],
    layer=LAYER,
    heads={
        "Model": Head(settings=TANH),
        "ForMaskedLM": Head(
            [
                *module("head.dense", "cls.predictions.dense"),
                *module("head.norm", "cls.predictions.LayerNorm"),
                *module("decoder", "cls.predictions.decoder"),
            ],
            TANH,
        ),
        **TASK_HEADS,
    },
    read=_read,
)
