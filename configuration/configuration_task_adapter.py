"""The configuration of a `TaskAdapter`: which encoder it stands on, how a text becomes one vector, and its classes."""

# No `from __future__ import annotations` here: `@strict` reads the types of the fields, and skips strings.
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto.configuration_auto import AutoConfig

from ..saving.loading import ReadSafely
from ..saving.saving import SavedWithAutoMap
from .configuration_sequence_encoder import SequenceEncoderConfig
from .shared_fields import CheckedSharedFields


@strict
class TaskAdapterConfig(ReadSafely, SavedWithAutoMap, CheckedSharedFields):
    """
    Says what a `TaskAdapter` is.

    Args:
        encoder_config (`PreTrainedConfig` or `dict`, *optional*):
            That of the frozen encoder, of any family that `AutoModel` knows.
        pooling (`"mean"` or `"cls"`, defaults to `"mean"`):
            Whether a text is the mean of its tokens or its first token.
        problem_type (`str`, *optional*):
            `single_label_classification`, `multi_label_classification` or `regression`; found by the labels otherwise.

    Raises:
        huggingface_hub.errors.StrictDataclassError: for a value of the wrong type, or a choice that does not exist.
        ValueError: for an encoder of a type that transformers does not know, a dtype that is none, and labels whose
        number or indices no model can have.
    """

    model_type: ClassVar[str] = "sequence_encoder_task_adapter"
    sub_configs: ClassVar[dict[str, Any]] = {"encoder_config": AutoConfig}

    encoder_config: dict[str, Any] | PreTrainedConfig | None = None
    pooling: Literal["mean", "cls"] = "mean"
    # Once more, since the types that transformers gives its own fields are strings, which `@strict` skips.
    problem_type: Literal["regression", "single_label_classification", "multi_label_classification"] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.encoder_config, dict):
            self.encoder_config = _as_config(self.encoder_config)
        if self.encoder_config is not None:
            # Transformers would set what is given here, or nothing, in the encoder's configuration as well.
            kwargs.setdefault("attn_implementation", self.encoder_config._attn_implementation)
        super().__post_init__(**kwargs)


def _as_config(fields: dict[str, Any]) -> PreTrainedConfig:
    """The configuration that a dictionary describes."""
    fields = dict(fields)
    model_type = fields.pop("model_type", None)
    # Where this package is not installed, transformers does not know its own encoder.
    if model_type == SequenceEncoderConfig.model_type:
        return SequenceEncoderConfig.from_dict(fields)
    if model_type is None:
        raise ValueError("encoder_config must say its model_type, and has none.")
    return AutoConfig.for_model(model_type, **fields)
