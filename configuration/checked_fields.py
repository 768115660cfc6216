"""Checks the fields of a `SequenceEncoderConfig` when it is made from keywords or from a file."""

# The configuration imports this module, so that it cannot be imported here.
import difflib
from dataclasses import fields
from typing import Any

from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import logging

from ..saving.loading import check_fields
from ..saving.registered_pipelines import without_our_pipelines
from .architecture_checks import check_architecture, check_layer_types, check_number_of_weights, check_position_fields
from .head_fields import check_head_fields
from .logit_calibration_field import check_logit_calibration
from .span_extraction_field import check_span_extraction
from .zero_shot_classification_field import ZeroShotClassificationFields

logger = logging.get_logger(__name__)

# Keywords that are not fields, but that transformers passes or stores, or that sentence-transformers stores for a
# cross-encoder; and `legacy`, by which a DeBERTa that is converted back gets the names of its weights.
_ACCEPTED_KEYWORDS = {
    "attn_implementation",
    "auto_map",
    "custom_pipelines",
    "experts_implementation",
    "legacy",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "quantization_config",
    "sbert_ce_default_activation_function",
    "sentence_transformers",
    "tokenizer_class",
    "torch_dtype",
    "use_cache",
}


class CheckedFieldsMixin:
    """Mixin that checks all fields. `@strict` calls the methods that start with `validate` after construction."""

    def validate_architecture(self) -> None:
        """Check sizes, probabilities and dependent fields."""
        check_architecture(self)

    def check_architecture(self) -> None:
        """Check again what assignments to fields may have changed, for a new model.

        Not all of `validate` runs, because transformers' part refuses `output_attentions` with "sdpa", which these
        models support.
        """
        check_architecture(self)
        check_position_fields(self)
        check_layer_types(self)

    def validate_positions(self) -> None:
        """Check the fields that concern positions."""
        check_position_fields(self)

    def validate_logit_calibration(self) -> None:
        """Check the calibration of the logits."""
        check_logit_calibration(self)

    def validate_zero_shot_classification(self: Any) -> None:
        """Check what the head for zero-shot classification needs."""
        given, kind = self.zero_shot_classification, ZeroShotClassificationFields
        check_head_fields("zero_shot_classification", given, kind, self.vocab_size)

    def validate_span_extraction(self) -> None:
        """Check the fields of the head for span extraction."""
        check_span_extraction(self)

    def validate_layer_type(self) -> None:
        """Check the layer types, in place of transformers' own check."""
        check_layer_types(self)

    def check_keywords(self: Any, kwargs: dict[str, Any]) -> None:
        """Check keywords that are not fields, and whether any computer can hold the model, before construction.

        Args:
            kwargs: The keywords, from which `head_dim` is removed.

        Raises:
            ValueError: If the model would be too large, or `head_dim` is not what the other fields imply.
        """
        head_dim = kwargs.pop("head_dim", None)
        self._warn_about_unknown_fields(kwargs)
        check_number_of_weights(self)
        if head_dim is not None and head_dim * self.num_attention_heads != self.hidden_size:
            raise ValueError(
                f"head_dim={head_dim} is not supported: it must be hidden_size={self.hidden_size} / "
                f"num_attention_heads={self.num_attention_heads}. Leave it out."
            )

    def _warn_about_unknown_fields(self: Any, kwargs: dict[str, Any]) -> None:
        """Warn about keywords that are not fields, since transformers silently keeps a misspelt one as an attribute."""
        own = [field.name for field in fields(self) if field.name not in PreTrainedConfig.__dataclass_fields__]
        for name in kwargs:
            if name in _ACCEPTED_KEYWORDS or name.startswith("_"):
                continue
            close = (
                ["rope_parameters"]
                if name.startswith("rope_")
                else difflib.get_close_matches(name, own, n=1, cutoff=0.65)
            )
            hint = f" Did you mean `{close[0]}`?" if close else ""
            logger.warning(f"`{name}` is not a field of SequenceEncoderConfig and does not affect the model.{hint}")

    @classmethod
    def checked_fields(cls: Any, config_dict: Any) -> dict[str, Any]:
        """Return the fields of a configuration without the pipelines that the package registers.

        Raises:
            ValueError: If they are not a dict, or have another `model_type`.
        """
        check_fields(config_dict, cls.__name__)
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise ValueError(
                f"model_type must be {cls.model_type!r}, got {model_type!r}. Load the model with transformers' Auto "
                "classes, or convert it with `sequence-encoder convert`."
            )
        if isinstance(named := config_dict.get("custom_pipelines"), dict):
            kept = without_our_pipelines(named, registered=True)
            config_dict = {name: value for name, value in config_dict.items() if name != "custom_pipelines"}
            config_dict |= {"custom_pipelines": kept} if kept else {}
        return config_dict
