"""MPNet (Song et al., 2020), including all-mpnet-base-v2 and the paraphrase and multi-qa models."""

from __future__ import annotations

from ...configuration.presets import PRESETS
from ..family import Family, Head
from ..key_mapping import SEPARATE_QKV, Rule, module
from .bert import FIELDS, LAYER, POOLER, TANH, TASK_HEADS, TRUNK
from .roberta import ROBERTA

# MPNet has no segments, and its classifiers share the dropout of the layers.
_FIELDS = {name: theirs for name, theirs in FIELDS.items() if name != "type_vocab_size"} | {
    "classifier_dropout": "hidden_dropout_prob"
}
# Positions start after this id, whatever `pad_token_id` says.
_OFFSET = PRESETS["mpnet"]["position_offset"]


MPNET = Family(
    name="mpnet",
    model_prefixes=("MPNet",),
    fields=_FIELDS,
    settings={
        name: value
        for name, value in PRESETS["mpnet"].items()
        if name not in _FIELDS and not name.endswith("_token_id") and name not in ("tie_word_embeddings", "pooler_act")
    },
    # Its code computes 32 buckets and positions after the id 1, and ignores other values.
    required={"relative_attention_num_buckets": 32, "pad_token_id": _OFFSET - 1},
    trunk=[
        *(rule for rule in TRUNK if rule.ours != "embeddings.types.weight"),
        Rule("position_bias.table.weight", ("encoder.relative_attention_bias.weight",)),
        *POOLER,
    ],
    layer=[
        *module(
            "layers.{}.self_attn.qkv_proj",
            *(f"encoder.layer.{{}}.attention.attn.{part}" for part in "qkv"),
            layout=SEPARATE_QKV,
        ),
        *module("layers.{}.self_attn.o_proj", "encoder.layer.{}.attention.attn.o"),
        *module("layers.{}.attn_norm", "encoder.layer.{}.attention.LayerNorm"),
        *(rule for rule in LAYER if ".mlp" in rule.ours),
    ],
    heads={
        "Model": Head(settings=TANH),
        "ForMaskedLM": ROBERTA.heads["ForMaskedLM"],
        **TASK_HEADS,
        "ForSequenceClassification": ROBERTA.heads["ForSequenceClassification"],
    },
    read=lambda config: {"max_position_embeddings": config.max_position_embeddings - _OFFSET},
    write=lambda config: {"max_position_embeddings": config.max_position_embeddings + _OFFSET},
)
