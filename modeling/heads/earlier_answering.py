"""Loads the heads for question answering that earlier versions saved under another name."""

from pathlib import Path
from typing import Any, cast

from ...configuration.configuration_sequence_encoder import SequenceEncoderConfig


class EarlierAnsweringMixin:
    """Mixin of the model for question answering, whose last layer had another name in earlier versions."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """Load a model, see `SequenceEncoderPreTrainedModel.from_pretrained`.

        Earlier versions saved `qa_outputs` as `classifier`. Models with other heads have a `classifier` as well,
        whose weights are not loaded.
        """
        config = kwargs.get("config")
        if isinstance(config, SequenceEncoderConfig):
            saved = config.architectures
        else:
            source = config or pretrained_model_name_or_path
            fields = SequenceEncoderConfig.get_config_dict(source, **kwargs)[0] if source else {}
            saved = fields.get("architectures")
        if saved == ["SequenceEncoderForQuestionAnswering"]:
            kwargs["key_mapping"] = {r"^classifier\.": "qa_outputs.", **(kwargs.get("key_mapping") or {})}
        return cast(Any, super()).from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)

    def _write(self, folder: Path, *args: Any, **kwargs: Any) -> Any:
        # By default, transformers saves weights under the names that they were loaded from.
        kwargs.setdefault("save_original_format", False)
        return cast(Any, super())._write(folder, *args, **kwargs)
