"""Checks whether a tokenizer fits a model, and how many tokens the model has positions for."""

from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

logger = logging.get_logger(__name__)

# Vocabularies are often padded to a multiple of this, for speed.
_ROUNDED_TO = 128


def longest_positions(config: Any) -> int | None:
    """Return the number of tokens that a model has positions for; None if it has positions for any number."""
    return config.max_position_embeddings if config.position_embedding == "learned" else None


def check_tokenizer(config: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer with more tokens than a model has, and warn if it does not seem to fit the model.

    Args:
        config: The configuration of the model.
        tokenizer: The tokenizer.

    Raises:
        ValueError: If the tokenizer has more tokens.
    """
    size = len(tokenizer)
    if size > config.vocab_size:
        raise ValueError(
            f"tokenizer has {size} tokens, but the model has vocab_size={config.vocab_size}. If it belongs to "
            f"the model, call model.resize_token_embeddings({size})."
        )
    differences = [
        f"its {name} is {theirs}, but {ours} in the model's configuration"
        for name in ("pad_token_id", "cls_token_id", "sep_token_id", "mask_token_id")
        if name.removesuffix("_id") in tokenizer.special_tokens_map
        and (theirs := getattr(tokenizer, name)) != (ours := getattr(config, name))
        and ours is not None
    ]
    if config.vocab_size - size >= _ROUNDED_TO:
        differences.append(f"it has only {size} tokens, but the model has vocab_size={config.vocab_size}")
    if differences:
        logger.warning_once(
            f"The tokenizer does not seem to belong to the model: {'; '.join(differences)}. With the wrong "
            "tokenizer, vectors are meaningless."
        )
