"""The subject of an explanation: the words of texts, whatever pieces the tokenizer makes of them, and their targets.

Shapes: L tokens of a row, W words of a request.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

# Marks the tokens that belong to no word: special tokens and the tokens of a prompt.
NO_WORD = -1
# The letters of scripts without spaces between words: Thai, Lao, Tibetan, Burmese, Khmer, Japanese and Chinese.
_UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


@dataclass(frozen=True)
class Word:
    """A word of a text.

    Attributes:
        text: The word as the text has it.
        source: 0 if it is a word of the text, 1 if it is one of the second text.
        start: The index of its first character in that text.
        end: The index after its last character.
    """

    text: str
    source: int
    start: int
    end: int


@dataclass(frozen=True)
class Row:
    """The tokens of one input of the model.

    Attributes:
        ids: The ids of L tokens.
        types: Their segments; None if the tokenizer has none.
        words: For each token, the index of its word among the W words of the request, or `NO_WORD`.
        cut: Whether the text was truncated.
    """

    ids: tuple[int, ...]
    types: tuple[int, ...] | None
    words: tuple[int, ...]
    cut: bool = False


@dataclass(frozen=True)
class Target:
    """One number that the model computes from a text.

    Attributes:
        name: What the model says, such as the name of a label or the text of an answer.
        number: What the number is, such as "log-odds of the label".
        indices: The index of the label, for each place that counts; or of the token in the vocabulary.
        places: The tokens whose outputs count; empty if the model has one output per text.
        source: Which text has the words that the target is about: 0, 1, or None if it is about all.
        start: The index of the first character of those words.
        end: The index after the last character.
    """

    name: str
    number: str
    indices: tuple[int, ...] = ()
    places: tuple[int, ...] = ()
    source: int | None = None
    start: int | None = None
    end: int | None = None


@dataclass
class Request:
    """Texts to explain.

    Attributes:
        texts: One text, or two.
        rows: The inputs of the model: one, or one for each text that the model reads alone.
        words: The W words of all texts.
        targets: The numbers to explain.
    """

    texts: tuple[str, ...]
    rows: list[Row]
    words: list[Word]
    targets: list[Target] = field(default_factory=list)

    def kept(self, copies: int) -> torch.Tensor:
        """Return (copies, W) bool, for copies that have all words."""
        return torch.ones(copies, len(self.words), dtype=torch.bool)

    def name(self) -> str:
        """Return a short name for errors."""
        text = self.texts[0]
        return repr(text if len(text) <= 40 else f"{text[:37]}…")


def check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that a tokenizer tells which characters its tokens come from.

    Raises:
        ValueError: If it is a slow tokenizer, which does not.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"tokenizer must be a fast tokenizer, which knows word boundaries, got a {type(tokenizer).__name__}."
        )


def row_of(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_length: int | None,
    first: int = 0,
    source: int = 0,
    prompt: str = "",
) -> tuple[Row, list[Word]]:
    """Tokenize a text, or two texts that the model reads together, and find their words.

    A word is what the tokenizer splits before it makes pieces. Tokenizers that do not split texts at spaces, such as
    some of SentencePiece, get words that end at spaces. In scripts without spaces, each piece is a word.

    Args:
        tokenizer: A fast tokenizer. A mask token in a text is a special token, and so no word.
        texts: One or two texts.
        max_length: The number of tokens to truncate to, or None.
        first: The index of the first word.
        source: The number of the first text in the request.
        prompt: A text to put before the first text. Its tokens belong to no word.

    Returns:
        The row, and the words.
    """
    texts = [prompt + texts[0], *texts[1:]]
    options: dict[str, Any] = {"truncation": max_length is not None, "max_length": max_length}
    encoded = tokenizer(*texts, **options, return_offsets_mapping=True, return_special_tokens_mask=True)
    ids = encoded["input_ids"]
    cut = max_length is not None and len(ids) >= max_length and _is_longer(tokenizer, texts, len(ids))
    types = tuple(encoded["token_type_ids"]) if "token_type_ids" in encoded else None
    # The number of spaces before each character.
    gaps = [[0, *accumulate(letter.isspace() for letter in text)] for text in texts]
    groups: dict[tuple[int, int | None, int, int | None], int] = {}
    spans: list[tuple[int, int, int]] = []
    words: list[int] = []
    spaces: list[int] = []
    parts = encoded.sequence_ids()
    # A word that the vocabulary lacks is a word.
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    for place, (token, part, word) in enumerate(zip(ids, parts, encoded.word_ids(), strict=True)):
        start, end = encoded["offset_mapping"][place]
        if part is None or token in special or start == end or (part == 0 and end <= len(prompt)):
            words.append(NO_WORD)
            continue
        text = texts[part]
        # Some tokenizers count the space before a word.
        while start < end and text[start].isspace():
            start += 1
        if start >= end:
            spaces.append(place)
            words.append(NO_WORD)
            continue
        key = (part, word, gaps[part][start], start if _UNSPACED.match(text[start]) else None)
        if key not in groups:
            groups[key] = len(spans)
            spans.append((part, start, end))
        index = groups[key]
        spans[index] = (part, min(spans[index][1], start), max(spans[index][2], end))
        words.append(first + index)
        # Tokens of spaces alone belong to the word after them.
        for space in spaces:
            if parts[space] == part:
                words[space] = first + index
        spaces.clear()
    found = []
    for part, start, end in spans:
        shift = len(prompt) if part == 0 else 0
        found.append(Word(texts[part][start:end], source + part, start - shift, end - shift))
    return Row(tuple(ids), types, tuple(words), cut), found


def _is_longer(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], length: int) -> bool:
    return len(tokenizer(*texts, verbose=False)["input_ids"]) > length


def without_words(row: Row, kept: Sequence[bool], mask_id: int | None) -> Row:
    """Return a copy of a row without some of its words.

    Args:
        row: The row.
        kept: For each of the W words of the request, whether the copy has it.
        mask_id: The token to put in the place of each removed token; None to leave out removed tokens.
    """
    if mask_id is not None:
        ids = tuple(
            token if word == NO_WORD or kept[word] else mask_id for token, word in zip(row.ids, row.words, strict=True)
        )
        return Row(ids, row.types, row.words)
    places = [place for place, word in enumerate(row.words) if word == NO_WORD or kept[word]]
    types = None if row.types is None else tuple(row.types[place] for place in places)
    return Row(tuple(row.ids[p] for p in places), types, tuple(row.words[p] for p in places))
