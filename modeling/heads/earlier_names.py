"""Reads the weights of models for question answering under the names that earlier versions saved them with."""

from pathlib import Path
from typing import Any, cast

from ...configuration.configuration_sequence_encoder import SequenceEncoderConfig


class EarlierNamesMixin:
    """Mixin for the model with a head for question answering, whose last layer had another name."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """Load a model, see `SequenceEncoderPreTrainedModel.from_pretrained`.

        Earlier versions saved `qa_outputs` as `classifier`. Models with other heads have a `classifier` as well, whose
        weights are not loaded.

        Args:
            pretrained_model_name_or_path: A folder or a Hub id.
            *model_args: Arguments of the model.
            **kwargs: Arguments of transformers' `from_pretrained`.

        Raises:
            ValueError: If `use_safetensors` is False or `dtype` is not a floating dtype.
            OSError: If there are no safetensors weights, they are damaged, or their index is invalid.
        """
        config = kwargs.get("config")
        if isinstance(config, SequenceEncoderConfig):
            saved = config.architectures
        elif source := config or pretrained_model_name_or_path:
            saved = SequenceEncoderConfig.get_config_dict(source, **kwargs)[0].get("architectures")
        else:
            saved = None
        if saved == ["SequenceEncoderForQuestionAnswering"]:
            kwargs["key_mapping"] = {r"^classifier\.": "qa_outputs.", **(kwargs.get("key_mapping") or {})}
        return cast(Any, super()).from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)

    def _write(self, folder: Path, *args: Any, **kwargs: Any) -> Any:
        # By default, transformers saves weights under the names that they were loaded from.
        kwargs.setdefault("save_original_format", False)
        return cast(Any, super())._write(folder, *args, **kwargs)
