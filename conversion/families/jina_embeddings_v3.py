"""jina-embeddings-v3 (Sturua et al., 2024): RoBERTa with rotary positions, without the LoRAs of its tasks."""

from __future__ import annotations

from ..family import Family, write_rope
from ..key_mapping import module
from .bert import FIELDS
from .nomic_bert import NOMIC_BERT, ROTARY_LAYER, ROTARY_TRUNK, read_rotary
from .roberta import ROBERTA

JINA_EMBEDDINGS_V3 = Family(
    name="jina_embeddings_v3",
    model_prefixes=("JinaEmbeddingsV3",),
    fields=FIELDS,
    settings={**NOMIC_BERT.settings, "feed_forward": "mlp", "attention_bias": True, "mlp_bias": True},
    required={},
    trunk=ROTARY_TRUNK,
    layer=[
        *ROTARY_LAYER,
        *module("layers.{}.mlp.up_proj", "layers.{}.mlp.fc1"),
        *module("layers.{}.mlp.down_proj", "layers.{}.mlp.fc2"),
    ],
    heads={name: head for name, head in ROBERTA.heads.items() if name != "ForMultipleChoice"},
    read=read_rotary,
    write=write_rope,
)
