"""RoFormer (Su et al., 2021): BERT with rotary positions, which rotate adjacent channels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from ..family import Family, Head
from ..key_mapping import SEPARATE_QKV, SEPARATE_QKV_OF_ADJACENT_PAIRS
from .bert import ANSWERS, CLASSIFIER, FIELDS, LAYER, NO_POOLER, PREDICTIONS, REQUIRED, SETTINGS, TRUNK
from .electra import ELECTRA_CLASSIFIER, ELECTRA_PROJECTION

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_ROTARY = {
    "position_embedding": "rotary",
    "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10_000.0}},
}
_POSITIONS = "encoder.embed_positions.weight"


def _constants(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the table of sines and cosines, which transformers keeps among the weights."""
    trunk = cast(Any, model.base_model)
    prefix = "" if trunk is model else f"{model.base_model_prefix}."
    return {prefix + _POSITIONS: trunk.encoder.embed_positions.create_weight()}


ROFORMER = Family(
    name="roformer",
    model_prefixes=("RoFormer",),
    fields=FIELDS | {"embedding_size": "embedding_size", "classifier_dropout": "hidden_dropout_prob"},
    settings={**SETTINGS, **_ROTARY},
    # The class in transformers ignores `use_bias`, which RoFormer v2 sets to False.
    required={**REQUIRED, "rotary_value": False, "use_bias": True},
    trunk=[*(rule for rule in TRUNK if "positions" not in rule.ours), *ELECTRA_PROJECTION],
    layer=[
        rule if rule.layout is not SEPARATE_QKV else replace(rule, layout=SEPARATE_QKV_OF_ADJACENT_PAIRS)
        for rule in LAYER
    ],
    heads={
        "Model": Head(settings=NO_POOLER),
        "ForMaskedLM": Head(PREDICTIONS, NO_POOLER),
        # The activation before its last layer is that of the layers.
        "ForSequenceClassification": Head(ELECTRA_CLASSIFIER, {"pooler_act": "gelu", "hidden_act": "gelu"}),
        "ForTokenClassification": Head(CLASSIFIER, NO_POOLER),
        "ForQuestionAnswering": Head(ANSWERS, NO_POOLER),
    },
    constants=_constants,
)
