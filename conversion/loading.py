"""Loads a checkpoint as a model of this package."""

from __future__ import annotations

from typing import cast

from ..configuration import SequenceEncoderConfig
from ..modeling import SequenceEncoderPreTrainedModel
from .convert import convert
from .remote_code_checkpoints import find_remote_code
from .source_models import load_checkpoint, read_config, transformer_folder


def load_or_convert(source: str, base_model: bool = False) -> SequenceEncoderPreTrainedModel:
    """Load a checkpoint of this package, or convert one of a family that `convert` supports.

    Args:
        source: A folder or a Hub id.
        base_model: Whether to load only the encoder.

    Raises:
        ValueError: If the checkpoint cannot be converted.
    """
    place = transformer_folder(source)
    if find_remote_code(place) is None and isinstance(read_config(place), SequenceEncoderConfig):
        return cast(SequenceEncoderPreTrainedModel, load_checkpoint(place, base_model))
    return cast(SequenceEncoderPreTrainedModel, convert(source, base_model=base_model))
