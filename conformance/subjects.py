"""The subjects of the tests: every preset with every head, and transformers' BERT and ModernBERT to compare with."""

from __future__ import annotations

import unittest
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import transformers
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

import sequence_encoder
from sequence_encoder import PRESETS

# The vocabulary is not divisible by the number of ranks, like real vocabularies.
TINY: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
    "cls_token_id": None,
    "sep_token_id": None,
    "mask_token_id": None,
}
# The suffix of each class, by the table of transformers that tells the mixins the purpose of a class.
HEADS = {
    "MODEL_MAPPING_NAMES": "Model",
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES": "ForMaskedLM",
    "MODEL_FOR_PRETRAINING_MAPPING_NAMES": "ForPreTraining",
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES": "ForSequenceClassification",
    "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES": "ForTokenClassification",
    "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES": "ForQuestionAnswering",
    "MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES": "ForMultipleChoice",
    "MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES": "ForRetrieval",
}
# Heads for tasks that transformers has no table for.
_OWN_HEADS = ("ForSpanExtraction", "ForZeroShotClassification")
# Registering a class with an Auto class does not add it to these tables.
for _table, _head in HEADS.items():
    getattr(modeling_auto, _table)[sequence_encoder.SequenceEncoderConfig.model_type] = f"SequenceEncoder{_head}"
# The tests of training leave out the models in this table, for whose losses they have no labels.
modeling_auto.MODEL_MAPPING_NAMES[sequence_encoder.SequenceEncoderConfig.model_type] = (
    "SequenceEncoderModel",
    "SequenceEncoderForRetrieval",
    *(f"SequenceEncoder{head}" for head in _OWN_HEADS),
)


@dataclass(frozen=True)
class Subject:
    """A family of models with one configuration.

    Args:
        name: The name in the report and of the test classes.
        counterpart: The subject of transformers to compare with, or None for these subjects themselves.
        make_config: A function that creates a tiny configuration, with overrides for some fields.
        classes: The model classes by the name of the head. The encoder without a head is "Model".
    """

    name: str
    counterpart: str | None
    make_config: Callable[..., PreTrainedConfig]
    classes: dict[str, type[PreTrainedModel]]


def _classes(module: Any, family: str) -> dict[str, type[PreTrainedModel]]:
    heads = (*HEADS.values(), *_OWN_HEADS)
    return {head: getattr(module, family + head) for head in heads if hasattr(module, family + head)}


def _preset(name: str) -> Subject:
    def make_config(**overrides: Any) -> PreTrainedConfig:
        return sequence_encoder.SequenceEncoderConfig.from_preset(name, **{**TINY, **overrides})

    counterpart = "ModernBertModel" if name == "modernbert" else "BertModel"
    return Subject(name, counterpart, make_config, _classes(sequence_encoder, "SequenceEncoder"))


def _family(name: str, config_class: Callable[..., PreTrainedConfig]) -> Subject:
    def make_config(**overrides: Any) -> PreTrainedConfig:
        return config_class(**{**TINY, **overrides})

    return Subject(f"{name}Model", None, make_config, _classes(transformers, name))


SUBJECTS = [
    *(_preset(name) for name in PRESETS),
    _family("Bert", transformers.BertConfig),
    _family("ModernBert", transformers.ModernBertConfig),
]
# The counterpart of each of our subjects. Tokenizers are named after their algorithms.
COUNTERPARTS = {subject.name: subject.counterpart for subject in SUBJECTS if subject.counterpart}
COUNTERPARTS |= {"wordpiece": "BertModel", "byte_level_bpe": "ModernBertModel"}


def cases(suite: type, module: str) -> dict[str, type]:
    """Create a test class of a suite for every subject, by the subject's name."""
    return {
        subject.name: type(subject.name, (suite, unittest.TestCase), {"subject": subject, "__module__": module})
        for subject in SUBJECTS
    }
