"""ELECTRA (Clark et al., 2020): its generators, and its discriminators without the discriminator head."""

from __future__ import annotations

from ..family import Family, Head
from ..key_mapping import module
from .bert import ANSWERS, CLASSIFIER, FIELDS, LAYER, NO_POOLER, REQUIRED, SETTINGS, TRUNK, classifier_dropout

_GELU = {"pooler_act": "gelu"}
ELECTRA_PROJECTION = module("embeddings.projection", "embeddings_project")
ELECTRA_CLASSIFIER = [
    *module("model.pooler.dense", "classifier.dense"),
    *module("classifier", "classifier.out_proj"),
]
_SUMMARY = {
    "summary_type": "first",
    "summary_use_proj": True,
    "summary_activation": "gelu",
    "summary_proj_to_labels": False,
}


ELECTRA = Family(
    name="electra",
    model_prefixes=("Electra",),
    fields=FIELDS | {"embedding_size": "embedding_size"},
    settings=SETTINGS,
    required=REQUIRED,
    trunk=[*TRUNK, *ELECTRA_PROJECTION],
    layer=LAYER,
    heads={
        "Model": Head(settings=NO_POOLER),
        "ForMaskedLM": Head(
            [
                *module("head.dense", "generator_predictions.dense"),
                *module("head.norm", "generator_predictions.LayerNorm"),
                *module("decoder", "generator_lm_head"),
            ],
            {**NO_POOLER, "hidden_act": "gelu"},
        ),
        "ForSequenceClassification": Head(ELECTRA_CLASSIFIER, _GELU),
        "ForMultipleChoice": Head(
            [*module("model.pooler.dense", "sequence_summary.summary"), *CLASSIFIER], _GELU, required=_SUMMARY
        ),
        "ForTokenClassification": Head(CLASSIFIER, NO_POOLER),
        "ForQuestionAnswering": Head(ANSWERS, NO_POOLER),
    },
    read=classifier_dropout,
)
