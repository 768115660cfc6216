"""The text that each token of a vocabulary adds to a decoded text, as bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

_BYTE_TOKEN = re.compile("<0x([0-9A-F]{2})>")


class ByteStrings:
    """Byte strings as a tree of their beginnings, which automata read once for all strings that share them.

    Attributes:
        strings: The strings.
        count: Their number.
        levels: For each number of bytes from 1 on, the beginnings of this length: the index of each among the
            beginnings that are one byte shorter, and its last byte; then the strings that end there, and the index of
            the beginning that each of them is.

    Args:
        strings: The strings.
    """

    def __init__(self, strings: list[bytes]) -> None:
        self.strings, self.count = strings, len(strings)
        self.levels: list[tuple[npt.NDArray[np.int64], ...]] = []
        order = np.array(sorted(range(len(strings)), key=strings.__getitem__), dtype=np.int64)
        lengths = np.array([len(strings[number]) for number in order], dtype=np.int64)
        width = int(lengths.max(initial=0))
        joined = b"".join(strings[number].ljust(width, b"\0") for number in order)
        values = np.frombuffer(joined, dtype=np.uint8).reshape(len(strings), width)
        node = np.zeros(len(strings), dtype=np.int64)
        starts = np.zeros(len(strings), dtype=np.bool_)
        starts[:1] = True
        for place in range(width):
            # Among sorted strings, those with the same beginning are neighbours, the shortest first.
            starts[1:] |= (values[1:, place] != values[:-1, place]) | (lengths[:-1] <= place)
            long = lengths > place
            new = starts & long
            parents, last = node[new], values[new, place].astype(np.int64)
            node = np.cumsum(new) - 1
            ending = lengths == place + 1
            self.levels.append((parents, last, order[ending], node[ending]))


@dataclass(frozen=True, eq=False)
class TokenTexts:
    """The texts of the tokens that write text; the others are special tokens and gaps in the numbering of the ids.

    Attributes:
        vocab_size: The number of ids, those without a token included.
        tokens: The ids of the tokens that write text (n,).
        first: What each of these tokens writes as the first one, without one space at its start.
        middle: What each of them writes after others.
    """

    vocab_size: int
    tokens: npt.NDArray[np.int64]
    first: ByteStrings
    middle: ByteStrings


@dataclass(frozen=True, eq=False)
class TokenizerTexts:
    """The texts of all tokens of a tokenizer.

    Attributes:
        size: The number of tokens of the tokenizer, with which the texts have been computed.
        vocab_size: The number of ids, those without a token included.
        whole: The texts of the tokens that write whole characters.
        split: The texts of all tokens, if some write parts of characters.
    """

    size: int
    vocab_size: int
    whole: TokenTexts
    split: TokenTexts | None


_texts_of_tokenizers: WeakKeyDictionary[PreTrainedTokenizerBase, TokenizerTexts] = WeakKeyDictionary()


def token_texts(tokenizer: PreTrainedTokenizerBase) -> TokenizerTexts:
    """Return what each token of a tokenizer adds to a text that `tokenizer.decode` returns.

    The result is kept as long as the tokenizer, and computed again when tokens have been added.

    Args:
        tokenizer: A tokenizer whose decoder turns each token into a text that depends at most on whether the token is
            the first one: WordPiece, byte-level BPE, or SentencePiece with or without byte tokens. The texts are those
            without `clean_up_tokenization_spaces`, which changes the text across tokens.

    Raises:
        ValueError: If the tokens of the tokenizer have no such texts.
    """
    kept = _texts_of_tokenizers.get(tokenizer)
    if kept is None or kept.size != len(tokenizer):
        kept = _texts_of_tokenizers[tokenizer] = _tokenizer_texts(tokenizer)
    return kept


def _tokenizer_texts(tokenizer: PreTrainedTokenizerBase) -> TokenizerTexts:
    vocabulary = tokenizer.get_vocab()
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= set(tokenizer.all_special_ids)
    names = {number: name for name, number in vocabulary.items() if number not in special}
    decoder = _decoder_json(tokenizer)
    if "ByteLevel" in decoder:
        middle = {number: _byte_level_text(name) for number, name in names.items()}
        first = middle
    else:
        first, middle = _decoded_texts(tokenizer, list(names))
        if "ByteFallback" in decoder:
            matches = {number: _BYTE_TOKEN.fullmatch(name) for number, name in names.items()}
            single = {number: bytes([int(match[1], 16)]) for number, match in matches.items() if match}
            first, middle = first | single, middle | single
    vocab_size = max(vocabulary.values()) + 1
    # A token without text would allow a gap of any length for any text.
    middle = {number: text for number, text in middle.items() if text}
    whole = {number: text for number, text in middle.items() if text.decode(errors="ignore").encode() == text}
    split = _collected_texts(vocab_size, first, middle) if len(whole) < len(middle) else None
    return TokenizerTexts(len(tokenizer), vocab_size, _collected_texts(vocab_size, first, whole), split)


def _collected_texts(vocab_size: int, first: dict[int, bytes], middle: dict[int, bytes]) -> TokenTexts:
    tokens = np.array(list(middle), dtype=np.int64)
    spaceless = [first[number].removeprefix(b" ") for number in middle]
    return TokenTexts(vocab_size, tokens, ByteStrings(spaceless), ByteStrings(list(middle.values())))


def _decoder_json(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the decoder of a fast tokenizer in JSON, or an empty text."""
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    return decoder.__getstate__().decode() if decoder is not None else ""


def _byte_level_text(name: str) -> bytes:
    """Return the bytes of a token whose characters each stand for a byte, as decoders of GPT-2's kind do."""
    values = [_BYTE_OF.get(character) for character in name]
    # Tokens that were added to the vocabulary are written as they are.
    return name.encode() if None in values else bytes(value for value in values if value is not None)


def _byte_characters() -> dict[str, int]:
    """Return the byte of each character of GPT-2's alphabet, whose unprintable bytes have characters from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [value for value in range(256) if value not in printable]
    return {chr(value): value for value in printable} | {chr(256 + i): value for i, value in enumerate(others)}


_BYTE_OF = _byte_characters()


def _decoded_texts(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> tuple[dict[int, bytes], dict[int, bytes]]:
    """Return the decoded text of each token as the first one, and after another token."""

    def decode(batch: list[list[int]]) -> list[str]:
        return tokenizer.batch_decode(batch, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    alone = decode([[number] for number in ids])
    words = (i for i, text in enumerate(alone) if text.strip().isascii() and text.strip().isalpha())
    before = next(words, None)
    if before is None:
        raise ValueError("tokenizer has no token of letters, so the texts of its tokens are unknown.")
    after = decode([[ids[before], number] for number in ids])
    if not all(text.startswith(alone[before]) for text in after):
        name = type(tokenizer).__name__
        raise ValueError(f"tokenizer={name} changes the text of a token when another one follows; use another one.")
    start = len(alone[before])
    return (
        {number: text.encode() for number, text in zip(ids, alone, strict=True)},
        {number: text[start:].encode() for number, text in zip(ids, after, strict=True)},
    )
