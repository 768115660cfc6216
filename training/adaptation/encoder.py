"""Load or convert the encoder that `sequence-encoder adapt` starts from."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ...command_line import UsageError
from ...configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ...conversion.remote_code_checkpoints import find_remote_code
from ...conversion.sidecar_files import folder_of, read_tokenizer
from ...conversion.source_models import FAMILIES, read_config, transformer_folder
from ..encoders import check_trainable, save_as_sequence_encoder
from .tasks import TASKS


def encoder_of(checkpoint: str, folder: Path, any_family: bool, may_write: bool) -> tuple[str, PreTrainedTokenizerBase]:
    """Find the encoder and its tokenizer, and convert the encoder if it belongs to another family.

    Args:
        checkpoint: A folder or a Hub id.
        folder: The folder to save a converted encoder in.
        any_family: Whether an encoder that cannot be converted may be used as it is.
        may_write: Whether this process converts the encoder. The others expect it in `folder`.

    Returns:
        The checkpoint of the encoder, and its tokenizer.

    Raises:
        UsageError: If there is no such encoder, or it has no usable tokenizer.
    """
    try:
        source_folder = folder_of(checkpoint)
        encoder = transformer_folder(source_folder)
        named = str(checkpoint if encoder == source_folder else encoder)
        config = None if find_remote_code(named) else read_config(named)
        if config is not None:
            check_trainable(config)
        if config is None or config.model_type != SequenceEncoderConfig.model_type:
            try:
                if may_write:
                    save_as_sequence_encoder(checkpoint, folder, base_model=True).save_pretrained(folder)
                named = str(folder)
            except UsageError as error:
                if config is None:
                    raise
                if not any_family:
                    raise _with_adapter_hint(error, config) from error
        tokenizer = read_tokenizer(named)
        # Causal models come without a padding token. Any token will do, because the mask hides padding.
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        if tokenizer.pad_token is None:
            raise ValueError("its tokenizer has neither a padding token nor an end-of-text token.")
        return named, tokenizer
    except (OSError, ValueError) as error:
        raise error if isinstance(error, UsageError) else UsageError(f"--from {checkpoint}: {error}") from error


def _with_adapter_hint(error: UsageError, config: PreTrainedConfig) -> UsageError:
    """Add a hint to use `--tuning adapter` if the error is only about the model family."""
    if config.is_encoder_decoder or config.model_type in FAMILIES:
        return error
    tasks = ", ".join(name for name, task in TASKS.items() if "adapter" in task.tunings)
    return UsageError(f"{error} --tuning adapter works with an encoder of any family, for --task {tasks}.")
