"""Create or load the tokenizer and the model that `sequence-encoder pretrain` starts from."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ...command_line import UsageError
from ...configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ...conversion.sidecar_files import read_tokenizer
from ...modeling import SequenceEncoderForMaskedLM, SequenceEncoderForPreTraining, SequenceEncoderPreTrainedModel
from ...tokenizer.tokenization_sequence_encoder import SequenceEncoderTokenizer
from ..encoders import set_special_tokens
from .arguments import ModelArguments
from .objective_arguments import Objectives

# Documents to train a tokenizer on. More documents hardly change it.
_TOKENIZER_TEXTS = 200_000


def make_tokenizer(
    arguments: ModelArguments, texts: Iterable[str], given: PreTrainedTokenizerBase | None = None
) -> PreTrainedTokenizerBase:
    """Load the tokenizer that the user named, unless it is given, or train one on the first texts.

    Raises:
        UsageError: If it cannot be loaded or trained.
    """
    try:
        if arguments.tokenizer is None:
            print(f"Training a tokenizer of at most {arguments.vocab_size:,} tokens.", flush=True)
            return SequenceEncoderTokenizer.train_from_iterator(
                islice(texts, _TOKENIZER_TEXTS),
                vocab_size=arguments.vocab_size,
                algorithm=arguments.algorithm,
                lowercase=arguments.lowercase,
                model_max_length=arguments.max_length,
                # The trainer would show five bars, even without a terminal.
                show_progress=False,
            )
        tokenizer = read_tokenizer(arguments.tokenizer) if given is None else copy.deepcopy(given)
    except UsageError:
        raise
    except (ValueError, OSError) as error:
        name = "--vocab_size, --corpus" if arguments.tokenizer is None else f"--tokenizer {arguments.tokenizer}"
        raise UsageError(f"{name}: {error}") from error
    tokenizer.model_max_length = arguments.max_length
    return tokenizer


def new_model(
    arguments: ModelArguments, objectives: Objectives, tokenizer: PreTrainedTokenizerBase
) -> SequenceEncoderPreTrainedModel:
    """Create an encoder with random weights and the heads that the objectives need.

    Raises:
        UsageError: If the vocabulary is too small for the tokenizer, or the encoder has too few positions.
    """
    fields: dict[str, Any] = {
        "type_vocab_size": 2 if objectives.sop_weight else 0,
        "max_position_embeddings": arguments.max_length,
        **arguments.config_fields(),
    }
    config = SequenceEncoderConfig.from_preset(arguments.preset, tokenizer=tokenizer, **fields)
    if config.vocab_size < len(tokenizer):
        raise UsageError(
            f"--config_overrides vocab_size={config.vocab_size}: the tokenizer has {len(tokenizer)} tokens; train a "
            "smaller one with --vocab_size."
        )
    check_max_length(config, arguments, "the encoder")
    return model_class(objectives)(config)


def load_converted_model(
    folder: Path, arguments: ModelArguments, objectives: Objectives, tokenizer: PreTrainedTokenizerBase
) -> PreTrainedModel:
    """Load the model that `save_as_sequence_encoder` saved, with the heads that the objectives need.

    Raises:
        UsageError: If the encoder has too few positions.
    """
    model = model_class(objectives).from_pretrained(folder)
    tokens: Any = {name: getattr(tokenizer, f"{name}_token_id") for name in ("cls", "sep", "mask")}
    set_special_tokens(model.config, **tokens)
    check_max_length(model.config, arguments, str(arguments.model))
    return model


def check_max_length(config: PreTrainedConfig, arguments: ModelArguments, named: str) -> None:
    """Check that an encoder, as errors name it, has positions for windows of `--max_length` tokens.

    Raises:
        UsageError: If it has too few.
    """
    limit = config.max_position_embeddings
    if config.position_embedding == "learned" and arguments.max_length > limit:
        raise UsageError(
            f"--max_length must be at most {limit}, the positions that {named} has, got {arguments.max_length}."
        )


def model_class(objectives: Objectives) -> type[SequenceEncoderPreTrainedModel]:
    """Return the model class with the heads that the objectives need."""
    return SequenceEncoderForPreTraining if objectives.sop_weight else SequenceEncoderForMaskedLM
