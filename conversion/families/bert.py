"""BERT (Devlin et al., 2019) and models with the same architecture: MiniLM, BGE, E5, GTE and others."""

from __future__ import annotations

from transformers import PreTrainedConfig

from ...configuration.presets import PRESETS
from ..family import SIZES, Family, Head
from ..key_mapping import SEPARATE_QKV, Rule, module

FIELDS = {
    name: name
    for name in (
        *SIZES,
        "type_vocab_size",
        "hidden_act",
        "initializer_range",
        "classifier_dropout",
    )
} | {
    "embedding_dropout": "hidden_dropout_prob",
    "hidden_dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "norm_eps": "layer_norm_eps",
}
# transformers no longer supports relative positions, but older configurations still ask for them.
REQUIRED = {"is_decoder": False, "add_cross_attention": False, "position_embedding_type": "absolute"}
# The fields of the preset that apply to the whole family, whatever a configuration says.
SETTINGS = {
    name: value
    for name, value in PRESETS["bert"].items()
    if name not in FIELDS and name not in ("tie_word_embeddings", "pooler_act")
}
TRUNK = [
    Rule("embed_tokens.weight", ("embeddings.word_embeddings.weight",)),
    Rule("embeddings.positions.table.weight", ("embeddings.position_embeddings.weight",)),
    Rule("embeddings.types.weight", ("embeddings.token_type_embeddings.weight",)),
    *module("embeddings.norm", "embeddings.LayerNorm"),
]
POOLER = module("pooler.dense", "pooler.dense")
_ATTENTION = "encoder.layer.{}.attention.self"
LAYER = [
    *module(
        "layers.{}.self_attn.qkv_proj",
        *(f"{_ATTENTION}.{part}" for part in ("query", "key", "value")),
        layout=SEPARATE_QKV,
    ),
    *module("layers.{}.self_attn.o_proj", "encoder.layer.{}.attention.output.dense"),
    *module("layers.{}.attn_norm", "encoder.layer.{}.attention.output.LayerNorm"),
    *module("layers.{}.mlp.up_proj", "encoder.layer.{}.intermediate.dense"),
    *module("layers.{}.mlp.down_proj", "encoder.layer.{}.output.dense"),
    *module("layers.{}.mlp_norm", "encoder.layer.{}.output.LayerNorm"),
]
CLASSIFIER = module("classifier", "classifier")
ANSWERS = module("qa_outputs", "qa_outputs")
DECODER = [
    Rule("decoder.weight", ("cls.predictions.decoder.weight",)),
    # Two names for one tensor.
    Rule("decoder.bias", ("cls.predictions.decoder.bias", "cls.predictions.bias")),
]
PREDICTIONS = [
    *module("head.dense", "cls.predictions.transform.dense"),
    *module("head.norm", "cls.predictions.transform.LayerNorm"),
    *DECODER,
]
TANH, NO_POOLER = {"pooler_act": "tanh"}, {"pooler_act": None}
TASK_HEADS = {
    "ForSequenceClassification": Head(CLASSIFIER, TANH),
    "ForMultipleChoice": Head(CLASSIFIER, TANH),
    "ForTokenClassification": Head(CLASSIFIER, TANH),
    "ForQuestionAnswering": Head(ANSWERS, TANH),
}


def classifier_dropout(config: PreTrainedConfig) -> dict[str, float]:
    """Return the classifier's dropout, which defaults to the dropout of the layers."""
    given = config.classifier_dropout
    return {"classifier_dropout": config.hidden_dropout_prob if given is None else given}


def check_projected(config: PreTrainedConfig, name: str) -> None:
    """Check that a family projects its embeddings because their size, a field, differs from that of the layers.

    Raises:
        ValueError: If both are equal.
    """
    if getattr(config, name) == config.hidden_size:
        raise ValueError(
            f"{name}={config.hidden_size} is not supported: it must differ from hidden_size, because a SequenceEncoder "
            "does not project embeddings that already have the size of the layers."
        )


BERT = Family(
    name="bert",
    model_prefixes=("Bert",),
    fields=FIELDS,
    settings=SETTINGS,
    required=REQUIRED,
    trunk=[*TRUNK, *POOLER],
    layer=LAYER,
    heads={
        "Model": Head(settings=TANH),
        "ForPreTraining": Head([*PREDICTIONS, *module("sop_classifier", "cls.seq_relationship")], TANH),
        "ForMaskedLM": Head(PREDICTIONS, TANH),
        **TASK_HEADS,
    },
    read=classifier_dropout,
)
