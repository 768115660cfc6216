"""The configuration of a `TaskAdapter`: its encoder, its pooling and its classes."""

# No `from __future__ import annotations` here: `@strict` reads the types of the fields, and skips a type given as a
# string.
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto.configuration_auto import AutoConfig

from ..saving.code_saving import CodeSavingMixin
from ..saving.loading import SafeConfigLoadingMixin
from .configuration_sequence_encoder import SequenceEncoderConfig
from .shared_fields import CheckedConfig


@strict
class TaskAdapterConfig(SafeConfigLoadingMixin, CodeSavingMixin, CheckedConfig):
    """Configuration of a `TaskAdapter`.

    Args:
        encoder_config (`PreTrainedConfig` or `dict`, *optional*): Configuration of the frozen encoder, of any family
            that `AutoModel` supports.
        pooling (`"mean"` or `"cls"`, defaults to `"mean"`): Whether the vector of a text is the mean over its tokens or
            its first token.
        problem_type (`str`, *optional*): `single_label_classification`, `multi_label_classification` or `regression`.
            By default, the labels of the first batch decide.

    Raises:
        huggingface_hub.errors.StrictDataclassError: If a value has the wrong type or is not one of the choices.
        ValueError: If transformers does not know the type of the encoder, `dtype` is not a floating dtype, or the
            labels have an invalid number or index.
    """

    model_type: ClassVar[str] = "sequence_encoder_task_adapter"
    sub_configs: ClassVar[dict[str, Any]] = {"encoder_config": AutoConfig}

    encoder_config: dict[str, Any] | PreTrainedConfig | None = None
    pooling: Literal["mean", "cls"] = "mean"
    # Declared again: in transformers the type of this field is a string, which `@strict` skips.
    problem_type: Literal["regression", "single_label_classification", "multi_label_classification"] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.encoder_config, dict):
            self.encoder_config = _as_config(self.encoder_config)
        if self.encoder_config is not None:
            # Transformers also sets this on the encoder's configuration, even if it is None.
            kwargs.setdefault("attn_implementation", self.encoder_config._attn_implementation)
        super().__post_init__(**kwargs)


def _as_config(fields: dict[str, Any]) -> PreTrainedConfig:
    """Build the configuration of an encoder from its fields."""
    fields = dict(fields)
    model_type = fields.pop("model_type", None)
    # Without this package, transformers does not know the model type.
    if model_type == SequenceEncoderConfig.model_type:
        return SequenceEncoderConfig.from_dict(fields)
    if model_type is None:
        raise ValueError("encoder_config must have a model_type.")
    return AutoConfig.for_model(model_type, **fields)
