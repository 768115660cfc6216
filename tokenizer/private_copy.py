"""Copies of tokenizers whose truncation and padding no other thread can change."""

import copy
import itertools
from typing import Any, TypeVar, cast

from tokenizers import Tokenizer, normalizers
from transformers import PreTrainedTokenizerBase

AnyTokenizer = TypeVar("AnyTokenizer", bound=PreTrainedTokenizerBase)
_PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")


def private_copy(tokenizer: AnyTokenizer) -> AnyTokenizer:
    """Copy a tokenizer so that calls of the copy and of the original do not affect each other.

    Transformers stores truncation and padding in the backend of a fast tokenizer on every call. Two threads that call
    the same tokenizer with different options can therefore get each other's options. The copy has its own backend with
    all tokens that the original has now. It shares the vocabulary, so a copy takes about as long as tokenizing a short
    text. Slow tokenizers store no options and are returned unchanged.

    Args:
        tokenizer: Any tokenizer of transformers.

    Raises:
        ValueError: If it is anything else.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ValueError(f"tokenizer must be a transformers tokenizer, got a {type(tokenizer).__name__}.")
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        return tokenizer
    own: Any = Tokenizer(backend.model)
    for part in _PARTS:
        if (value := getattr(backend, part)) is not None:
            setattr(own, part, value)
    # In the order of their ids, since a backend assigns ids consecutively.
    added = [token for _, token in sorted(backend.get_added_tokens_decoder().items())]
    for special, tokens in itertools.groupby(added, key=lambda token: token.special):
        (own.add_special_tokens if special else own.add_tokens)(list(tokens))
    copied = copy.copy(tokenizer)
    cast(Any, copied)._tokenizer = own
    return copied


def lowercased(tokenizer: AnyTokenizer) -> AnyTokenizer:
    """Make a fast tokenizer lowercase all texts, in place, and return it.

    Args:
        tokenizer: A private copy of a tokenizer.

    Raises:
        ValueError: If the tokenizer is slow.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ValueError(f"do_lower_case=True needs a fast tokenizer, got a {type(tokenizer).__name__}.")
    normalizer: Any = backend.normalizer
    backend.normalizer = (
        normalizers.Lowercase() if normalizer is None else normalizers.Sequence([normalizers.Lowercase(), normalizer])
    )
    return tokenizer


def without_special_tokens(tokenizer: AnyTokenizer) -> AnyTokenizer:
    """Make a fast tokenizer add no special tokens to texts, in place, and return it.

    Args:
        tokenizer: A private copy of a tokenizer.
    """
    if isinstance(backend := getattr(tokenizer, "backend_tokenizer", None), Tokenizer):
        cast(Any, backend).post_processor = None
    return tokenizer
