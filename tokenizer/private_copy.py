"""A tokenizer whose truncation and padding no other thread can change."""

import copy
import itertools
from typing import Any, TypeVar, cast

from tokenizers import Tokenizer, normalizers
from transformers import PreTrainedTokenizerBase

AnyTokenizer = TypeVar("AnyTokenizer", bound=PreTrainedTokenizerBase)
_PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")


def private_copy(tokenizer: AnyTokenizer) -> AnyTokenizer:
    """Copies a tokenizer so that calls of the copy and of the original do not affect each other.

    A fast tokenizer stores truncation and padding in its backend, and transformers sets them there on every call: two
    threads that call one tokenizer with different options can each get the other's. The copy has its own backend. It
    shares the vocabulary with the original, so that making one takes about as long as tokenising one short text, and
    holds all tokens that the original has at the time. A slow tokenizer keeps no such state, and is returned as it is.

    Args:
        tokenizer: of any class of transformers.

    Raises:
        ValueError: for anything else.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ValueError(f"tokenizer must be a tokenizer of transformers, got {type(tokenizer).__name__}.")
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        return tokenizer
    own: Any = Tokenizer(backend.model)
    for part in _PARTS:
        if (value := getattr(backend, part)) is not None:
            setattr(own, part, value)
    # In the order of their ids, which a backend gives out one after the other.
    added = [token for _, token in sorted(backend.get_added_tokens_decoder().items())]
    for special, tokens in itertools.groupby(added, key=lambda token: token.special):
        (own.add_special_tokens if special else own.add_tokens)(list(tokens))
    copied = copy.copy(tokenizer)
    cast(Any, copied)._tokenizer = own
    return copied


def lowercased(tokenizer: AnyTokenizer) -> AnyTokenizer:
    """Makes a private copy of a fast tokenizer lowercase all texts, and returns it.

    Raises:
        ValueError: for a slow tokenizer.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ValueError(f"do_lower_case=True needs a fast tokenizer, got a {type(tokenizer).__name__}.")
    normalizer: Any = backend.normalizer
    backend.normalizer = (
        normalizers.Lowercase() if normalizer is None else normalizers.Sequence([normalizers.Lowercase(), normalizer])
    )
    return tokenizer
