"""The encoder that `sequence-encoder adapt` starts from."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ...command_line import UsageError
from ...configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ...conversion.sidecar_files import folder_of, read_tokenizer
from ...conversion.source_models import FAMILIES, read_config, transformer_folder
from ..encoders import carry_over
from .tasks import TASKS


def encoder_of(checkpoint: str, folder: Path, any_family: bool, may_write: bool) -> tuple[str, PreTrainedTokenizerBase]:
    """A checkpoint with the encoder, and its tokenizer: the one that was asked for if it is ours, else carried over.

    Args:
        checkpoint: a folder or a Hub id.
        folder: where an encoder is saved that is carried over.
        any_family: whether one that cannot be carried over may stay as it is.
        may_write: whether this process carries it over, or finds it done.

    Raises:
        UsageError: if there is no such encoder, or no tokenizer with it.
    """
    try:
        beside = folder_of(checkpoint)
        encoder = transformer_folder(beside)
        named = str(checkpoint if encoder == beside else encoder)
        config = read_config(named)
        if config.model_type != SequenceEncoderConfig.model_type:
            try:
                if may_write:
                    carry_over(checkpoint, folder, base_model=True).save_pretrained(folder)
                named = str(folder)
            except UsageError as error:
                if not any_family:
                    raise _pointing_to_adapter(error, config) from error
        tokenizer = read_tokenizer(named)
        # Encoders that read from left to right come without a padding token, and the mask hides any token as well.
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        if tokenizer.pad_token is None:
            raise ValueError("its tokenizer has neither a padding token nor one for the end of a text.")
        return named, tokenizer
    except (OSError, ValueError) as error:
        raise error if isinstance(error, UsageError) else UsageError(f"--from {checkpoint}: {error}") from error


def _pointing_to_adapter(error: UsageError, config: PreTrainedConfig) -> UsageError:
    """The error, with what the user can do where nothing but the family stands in the way."""
    if config.is_encoder_decoder or config.model_type in FAMILIES:
        return error
    tasks = ", ".join(name for name, task in TASKS.items() if "adapter" in task.tunings)
    return UsageError(f"{error} --tuning adapter takes an encoder of any family, for --task {tasks}.")
