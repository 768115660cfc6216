"""Load or convert the encoder that `sequence-encoder adapt` starts from, and find how long its texts may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ...command_line import UsageError
from ...command_line.counts import counted
from ...command_line.progress import say
from ...configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ...conversion.formats.gliner import GlinerCheckpoint
from ...conversion.sidecar_files import read_tokenizer
from ...conversion.source import Source
from ...conversion.source_models import FAMILIES, is_adapted, read_config
from ...saving.exported_models import check_not_exported
from ..encoders import check_trainable, named_error, save_as_sequence_encoder
from .tasks import EXTRACTION_TASKS, TASKS, WRITING_TASKS

# Heads whose last layer has one row per label.
CLASSIFIERS = ("SequenceClassification", "TokenClassification", "MultipleChoice")
# Default of --max_length.
_LENGTH = 256


def encoder_of(
    checkpoint: str, folder: Path, any_family: bool, may_write: bool, task: str | None = None
) -> tuple[str, PreTrainedTokenizerBase]:
    """Find the encoder and its tokenizer, and convert the encoder if it belongs to another family.

    Args:
        checkpoint: A folder or a Hub id.
        folder: The folder to save a converted encoder in.
        any_family: Whether an encoder that cannot be converted may be used as it is.
        may_write: Whether this process converts the encoder. The others expect it in `folder`.
        task: The task to train for. Some need the head of the checkpoint, too.

    Returns:
        The checkpoint of the encoder, and its tokenizer.

    Raises:
        UsageError: If there is no such encoder, or it has no usable tokenizer.
    """
    try:
        source = Source(checkpoint)
        check_not_exported(source.folder)
        named, remote = source.place, source.remote_code is not None
        with_head = task in WRITING_TASKS or (
            task in EXTRACTION_TASKS and isinstance(source.remote_code, GlinerCheckpoint)
        )
        # It keeps its head, as a model of this package does.
        adapted = not remote and is_adapted(named)
        config = None if remote or adapted else read_config(named)
        if config is not None:
            check_trainable(config)
        if config is None or config.model_type != SequenceEncoderConfig.model_type:
            try:
                if may_write:
                    base_model = not (with_head or adapted)
                    if base_model and config is not None:
                        say_new_head(checkpoint, config)
                    save_as_sequence_encoder(checkpoint, folder, base_model).save_pretrained(folder)
                if folder.exists():
                    named = str(folder)
            except UsageError as error:
                if config is None:
                    raise
                if not any_family:
                    raise _with_adapter_hint(error, config) from error
                print(f"{error} The result will be a TaskAdapter, which works in pipelines but not in other commands.")
        tokenizer = read_tokenizer(named)
        # Causal models come without a padding token. Any token will do, because the mask hides padding.
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        if tokenizer.pad_token is None:
            raise ValueError("its tokenizer has neither a padding token nor an end-of-text token.")
        return named, tokenizer
    except (OSError, ValueError) as error:
        raise error if isinstance(error, UsageError) else named_error(checkpoint, error) from error


def say_new_head(checkpoint: str, config: PreTrainedConfig) -> None:
    """Tell the user that a new head replaces the trained head of a checkpoint. Say nothing about other checkpoints."""
    kind = (config.architectures or [""])[0].rpartition("For")[2]
    if kind in CLASSIFIERS:
        labels = counted(len(config.id2label or {}), "label") if kind != "MultipleChoice" else "choices"
        say(f"The head of {checkpoint} for {labels} is replaced by a new one.")


def _with_adapter_hint(error: UsageError, config: PreTrainedConfig) -> UsageError:
    """Add a hint to use `--tuning adapter` if the error is only about the model family."""
    if config.is_encoder_decoder or config.model_type in FAMILIES:
        return error
    tasks = ", ".join(name for name, task in TASKS.items() if "adapter" in task.tunings)
    return UsageError(f"{error} --tuning adapter works with an encoder of any family, for --task {tasks}.")


def text_length(asked: int | None, config: Any, prompts: int = 0, default: int | None = None) -> int:
    """Return the number of tokens to truncate texts to: `asked`, or a default that the encoder has positions for.

    Args:
        asked: `--max_length`, if the user gave it.
        config: The configuration of the encoder.
        prompts: The number of positions that virtual tokens take.
        default: The maximum length that the encoder's folder names, if any.

    Raises:
        UsageError: If `asked` exceeds the positions of the encoder.
    """
    positions = getattr(config, "max_position_embeddings", None)
    limited = positions is not None and getattr(config, "position_embedding", "learned") == "learned"
    room = int(positions or 0) - prompts if limited else None
    if asked is not None and room is not None and asked > room:
        beside = f" beside the {prompts} virtual tokens" if prompts else ""
        raise UsageError(
            f"--max_length must be at most {room}, the positions that the encoder has{beside}, got {asked}."
        )
    default = default or _LENGTH
    return asked or min(default, room or default)
