"""Makes the tokenizers of static encoders, which add no special tokens."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer

from .tokenization_sequence_encoder import SPECIAL_TOKENS, SequenceEncoderTokenizer

# The special tokens of the families whose tokenizers static encoders have.
_NAMES = {
    "pad_token": ("[PAD]", "<pad>"),
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "mask_token": ("[MASK]", "<mask>"),
}


def static_tokenizer(backend: Tokenizer) -> SequenceEncoderTokenizer:
    """Return a tokenizer with the tokens of another one, which adds no special tokens and truncates nothing.

    Args:
        backend: A tokenizer of the library tokenizers, which is not changed.
    """
    own = Tokenizer.from_str(backend.to_str())
    padding: Any = own.padding
    own.no_truncation()
    own.no_padding()
    own.post_processor = None
    special = {"unk_token": unknown_token(own), "pad_token": padding["pad_token"] if padding else None}
    for name, candidates in _NAMES.items():
        found = [token for token in candidates if own.token_to_id(token) is not None]
        special[name] = special.get(name) or next(iter(found), None)
    given = {name: special[name] for name in SPECIAL_TOKENS if special.get(name) is not None}
    return SequenceEncoderTokenizer(tokenizer_object=own, model_input_names=["input_ids", "attention_mask"], **given)


def unknown_token(backend: Tokenizer) -> str | None:
    """Return the token of words that a tokenizer does not know; None if it has no such token."""
    model = json.loads(backend.to_str())["model"]
    if model.get("unk_token") is not None:
        return str(model["unk_token"])
    number = model.get("unk_id")
    return None if number is None else backend.id_to_token(number)
