"""UltraBERT: the layers of EuroBERT, of which two thirds attend to a window."""

from __future__ import annotations

import copy
from typing import Any

from transformers import PreTrainedConfig

from ...configuration.rope_parameters import check_rope_parameters
from ..family import Family, Head, check_head_dim
from ..key_mapping import Rule
from .bert import ANSWERS, CLASSIFIER, NO_POOLER
from .eurobert import EUROBERT, FIELDS, LAYER, TRUNK

_FIELDS = FIELDS | {"layer_types": "layer_types", "pooling": "classifier_pooling"}
_DROPOUT = {"classifier_dropout": "classifier_dropout"}


def _read(config: PreTrainedConfig) -> dict[str, Any]:
    check_head_dim(config)
    present = set(config.layer_types)
    rope = {name: parameters for name, parameters in config.rope_parameters.items() if name in present}
    check_rope_parameters(rope, config.layer_types)
    return {
        "sliding_window": config.sliding_window if "sliding_attention" in present else None,
        "rope_parameters": copy.deepcopy(rope),
    }


def _write(config: PreTrainedConfig) -> dict[str, Any]:
    window = {} if config.sliding_window is None else {"sliding_window": config.sliding_window}
    return {
        **window,
        "rope_parameters": copy.deepcopy(config.rope_parameters),
        "prediction_head_size": config.prediction_head_size or config.hidden_size,
    }


ULTRABERT = Family(
    name="ultrabert",
    model_prefixes=("Ultrabert",),
    fields=_FIELDS,
    settings={
        name: value for name, value in EUROBERT.settings.items() if name not in _FIELDS and name != "classifier_dropout"
    }
    | {"decoder_bias": False, "head_bias": False},
    required={},
    trunk=TRUNK,
    layer=LAYER,
    heads={
        "Model": Head(settings=NO_POOLER, fields=_DROPOUT),
        "ForMaskedLM": Head(
            [
                Rule("head.dense.weight", ("head.linear1.weight",)),
                Rule("head.output.weight", ("head.linear2.weight",)),
                Rule("decoder.weight", ("head.decoder.weight",)),
            ],
            {**NO_POOLER, "prediction_head": "mlp", "head_act": "gelu_pytorch_tanh"},
            _DROPOUT | {"prediction_head_size": "prediction_head_size"},
        ),
        "ForSequenceClassification": Head(CLASSIFIER, NO_POOLER, _DROPOUT),
        "ForTokenClassification": Head(CLASSIFIER, NO_POOLER, _DROPOUT),
        # This head has no dropout.
        "ForQuestionAnswering": Head(ANSWERS, {**NO_POOLER, "classifier_dropout": 0.0}),
    },
    read=_read,
    write=_write,
)
