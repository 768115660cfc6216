"""Loads a checkpoint as a model of this package."""

from __future__ import annotations

from typing import cast

from ..command_line.progress import Progress
from ..modeling import SequenceEncoderPreTrainedModel
from ..modeling.text_encoding.recipe_files import SETTINGS, read_json
from ..saving.optional_files import folder_with
from .checkpoints import load_checkpoint
from .converting import convert, convert_loaded
from .remote_code_checkpoints import find_remote_code
from .source_models import transformer_folder


def load_or_convert(source: str, base_model: bool = False) -> SequenceEncoderPreTrainedModel:
    """Load a checkpoint of this package, or convert one of a family that `convert` supports.

    A `TaskAdapter` is loaded as a classifier, and a peft adapter is merged into its base model. The configuration of a
    cross-encoder states its activation.

    Args:
        source: A folder or a Hub id.
        base_model: Whether to load only the encoder.

    Raises:
        MissingLibraryError: If it is a peft adapter, and peft is not installed.
        ValueError: If the checkpoint cannot be converted.
    """
    place = transformer_folder(source)
    with Progress("Loading the model"):
        if find_remote_code(place) is not None:
            return cast(SequenceEncoderPreTrainedModel, convert(source, base_model=base_model))
        loaded = load_checkpoint(place, base_model)
        if not isinstance(loaded, SequenceEncoderPreTrainedModel):
            loaded = convert_loaded(loaded, source, base_model=base_model)
        # Since version 6, sentence-transformers states it in a separate file.
        folder = folder_with([SETTINGS], source)
        if folder is not None and (folder / SETTINGS).is_file():
            stated = read_json(folder / SETTINGS).get("activation_fn")
            if stated is not None and getattr(loaded.config, "sentence_transformers", None) is None:
                loaded.config.sentence_transformers = {"activation_fn": stated}
        return cast(SequenceEncoderPreTrainedModel, loaded)
