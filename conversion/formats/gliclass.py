"""GLiClass (Stepanov et al., 2025, https://arxiv.org/abs/2508.07662), the models with a single encoder.

The definitions are those of its package (https://github.com/Knowledgator/GLiClass, gliclass/model.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from ...configuration import SequenceEncoderConfig
from ..key_mapping import Rule, Tensors, module
from .package_checkpoints import HeadedCheckpoint
from .weight_files import read_weights

_POOLINGS = {"first": "cls", "avg": "mean"}
_LABEL_POOLINGS = {"first": "first", "average": "mean"}
_SCORERS = {"simple": "dot", "weighted-dot": "weighted_dot", "mlp": "mlp"}
_PROJECTIONS = {"text_projection": "text_projector", "label_projection": "classes_projector"}
_LAYERS = {"up_proj": "linear_1", "down_proj": "linear_2"}
_RULES = [
    *(
        rule
        for ours, theirs in _PROJECTIONS.items()
        for layer, name in _LAYERS.items()
        for rule in module(f"{ours}.{layer}", f"model.{theirs}.{name}")
    ),
    Rule("logit_scale", ("model.logit_scale",)),
]
_SCORER_RULES = {
    "weighted-dot": [
        *module("scorer.text_proj", "model.scorer.proj_text"),
        *module("scorer.label_proj", "model.scorer.proj_label"),
        *module("scorer.up_proj", "model.scorer.out_mlp.0"),
        *module("scorer.down_proj", "model.scorer.out_mlp.3"),
    ],
    "mlp": [
        *module("scorer.up_proj", "model.scorer.mlp.0"),
        *module("scorer.inner_proj", "model.scorer.mlp.2"),
        *module("scorer.down_proj", "model.scorer.mlp.4"),
    ],
    "simple": [],
}
# Their class does not use it.
_UNUSED = ("model.encoder_model.pooler.",)


class GliclassCheckpoint(HeadedCheckpoint):
    """A checkpoint of GLiClass."""

    model_type = "GLiClass"
    architecture = "GLiClassModel"
    where = "in the package gliclass"
    model_class = "SequenceEncoderForZeroShotClassification"
    encoder_prefix = "model.encoder_model."
    allowed: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "architecture_type": ("uni-encoder",),
        "pooling_strategy": tuple(_POOLINGS),
        "class_token_pooling": tuple(_LABEL_POOLINGS),
        "scorer_type": tuple(_SCORERS),
        "encoder_layer_id": (-1,),
        "extract_text_features": (False,),
        "multimodal": (False,),
        "squeeze_layers": (False,),
        "use_calibrator": (False,),
        "use_lstm": (False,),
        "use_segment_embeddings": (False,),
    }

    @property
    def encoder_config(self) -> PreTrainedConfig:
        """See `HeadedCheckpoint.encoder_config`."""
        given = self.fields.get("encoder_config")
        if not isinstance(given, dict):
            raise ValueError(f"encoder_config of {self.place} must be the configuration of its encoder, got {given!r}.")
        # It is larger than that of the encoder by the tokens that the package adds.
        size = self.fields.get("vocab_size")
        return self.read_encoder_config(given if size is None else {**given, "vocab_size": size})

    def complete(self, config: SequenceEncoderConfig) -> None:
        """See `HeadedCheckpoint.complete`. What the fields leave out has the defaults of the package."""
        fields, size = self.fields, config.vocab_size
        label_token, separator = (self._token(f"{name}_token_index", size) for name in ("class", "text"))
        if label_token is None:
            raise ValueError(
                f"class_token_index must be below the number of tokens, {size}, got {fields.get('class_token_index')}."
            )
        config.pooling = _POOLINGS[fields.get("pooling_strategy", "first")]  # type: ignore[assignment]
        config.problem_type = fields.get("problem_type", "single_label_classification")
        config.zero_shot_classification = {
            "label_token_id": label_token,
            "text_token_id": separator,
            "labels_first": fields.get("prompt_first", False),
            "label_pooling": _LABEL_POOLINGS[fields.get("class_token_pooling", "first")],
            "reads_label_token": fields.get("embed_class_token", True),
            "hidden_size": fields.get("hidden_size") or config.hidden_size,
            "act": fields.get("projector_hidden_act", "gelu"),
            "scorer": _SCORERS[fields.get("scorer_type", "simple")],
            "normalize": fields.get("normalize_features", False),
            "dropout": float(fields.get("dropout", 0.1)),
        }

    def head_rules(self, needed: Sequence[str]) -> list[Rule]:
        """See `HeadedCheckpoint.head_rules`."""
        return [*_RULES, *_SCORER_RULES[self.fields.get("scorer_type", "simple")]]

    def weights(self) -> Tensors:
        """See `HeadedCheckpoint.weights`."""
        # Without normalised vectors, nothing is scaled.
        unused = _UNUSED if self.fields.get("normalize_features", False) else (*_UNUSED, "model.logit_scale")
        return {name: tensor for name, tensor in read_weights(self.place).items() if not name.startswith(unused)}

    def _token(self, name: str, vocab_size: int) -> int | None:
        """Return the id of a token; None if there is no such token, as in checkpoints that do not need it."""
        index = self.fields.get(name)
        return index if isinstance(index, int) and 0 <= index < vocab_size else None
