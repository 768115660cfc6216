"""Cuts texts into windows: runs of whole sentences from one text that fit the model.

A window never mixes two texts. Its cut is the end of a sentence near its middle: the collator can divide it there into
the two segments of sentence order prediction (Lan et al., 2020).
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from itertools import accumulate, chain, islice
from typing import Any, TypedDict, TypeVar

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..command_line import UsageError
from ..command_line.progress import Progress
from .corpus import texts_of

# Number of characters to tokenise in one call, so that long texts take no more memory than short ones.
_GROUP_CHARACTERS = 1_000_000
# Number of documents that a process keeps in memory at once, with their tokens.
_DOCUMENTS = 100
# A sentence ends after a full stop, question mark or exclamation mark followed by a space, at an empty line, and before
# a list item. The marks of Chinese and Japanese need no space, but may be followed by a closing quotation mark.
_SENTENCE_END = re.compile(
    r"(?<=[.!?؟۔।॥።။។])\s+(?=[^a-z\s])|(?<=[。！？｡])(?![。！？｡」』”’）])\s*"  # noqa: RUF001
    r"|\n\s*\n|\n(?=\s*(?:[-*>]|\w+\s*:|\w+ \())"
)

# The tokens or the characters of a sentence.
Sentence = TypeVar("Sentence", np.ndarray, str)


class Window(TypedDict):
    """A window of one text.

    Attributes:
        input_ids: The token ids, without special tokens.
        cut: The number of tokens in the first of two segments, or 0 if there can be only one.
        length: The number of tokens with special tokens, of which there is one fewer if the cut is not used.
    """

    input_ids: np.ndarray
    cut: int
    length: int


def sentences(text: str) -> list[str]:
    """Split a text into sentences, paragraphs and list items."""
    return [part for part in (piece.strip() for piece in _SENTENCE_END.split(text)) if part]


def segment_windows(
    texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, max_length: int, pairs: bool = True
) -> Iterator[Window]:
    """Cut texts into windows of whole sentences. A sentence that does not fit is cut as well.

    Args:
        texts: The texts. Texts without tokens yield no windows.
        tokenizer: The tokenizer of the model.
        max_length: The maximum number of tokens in a window, including [CLS] and one [SEP], or two with two segments.
        pairs: Whether windows can be cut into two segments, at the sentence boundary nearest to the middle.

    Raises:
        ValueError: If `max_length` leaves no room for text.
    """
    special = 3 if pairs else 2
    room = max_length - special
    if room < 2:
        raise ValueError(
            f"max_length must be at least {special + 2}, for two tokens and {special} special tokens, got {max_length}."
        )
    for lot in _groups_of_texts(map(sentences, texts)):
        for sentence_ids in _tokenized(lot, tokenizer):
            for window in runs(sentence_ids, room):
                cut = _middle(window) if pairs else 0
                ids = np.concatenate(window)
                yield {"input_ids": ids, "cut": cut, "length": len(ids) + (3 if cut else 2)}


def _groups_of_texts(texts: Iterable[list[str]]) -> Iterator[list[list[str]]]:
    """Group texts to tokenise them together, because a tokenizer uses several cores only within one call."""
    lot: list[list[str]] = []
    characters = 0
    for parts in texts:
        if parts:
            lot.append(parts)
            characters += sum(map(len, parts))
        if characters >= _GROUP_CHARACTERS:
            yield lot
            lot, characters = [], 0
    if lot:
        yield lot


def _tokenized(lot: list[list[str]], tokenizer: PreTrainedTokenizerBase) -> Iterator[list[np.ndarray]]:
    """Yield the token ids of each text's sentences. A literal "[MASK]" in a text does not become a mask token."""
    encoded = tokenizer(
        list(chain.from_iterable(lot)),
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )["input_ids"]
    ids = (np.array(sentence, dtype=np.int32) for sentence in encoded)
    for parts in lot:
        yield list(islice(ids, len(parts)))


def runs(parts: list[Sentence], room: int) -> Iterator[list[Sentence]]:
    """Yield the sentences of a text in runs of at most `room` tokens or characters. Longer ones are cut."""
    run: list[Sentence] = []
    length = 0
    for part in (sentence[i : i + room] for sentence in parts for i in range(0, len(sentence), room)):
        if run and length + len(part) > room:
            yield run
            run, length = [], 0
        run.append(part)
        length += len(part)
    if run:
        yield run


def _middle(run: list[np.ndarray]) -> int:
    """Return the sentence end nearest to the middle, in tokens, or 0 for a single sentence."""
    *ends, total = accumulate(map(len, run))
    return min(ends, key=lambda end: abs(2 * end - total), default=0)


def windows_of(
    texts: Any, tokenizer: PreTrainedTokenizerBase, max_length: int, pairs: bool = True, num_proc: int | None = None
) -> Any:
    """Tokenise a `datasets.Dataset` with a column "text" into a `datasets.Dataset` of windows.

    Texts that the same tokenizer has tokenised before come from the cache of `datasets`.

    Args:
        texts: The documents.
        tokenizer: The tokenizer of the model.
        max_length: The maximum number of tokens in a window.
        pairs: Whether windows can be cut into two segments.
        num_proc: The number of processes. Defaults to one per core, or fewer if there are few documents.

    Raises:
        UsageError: If no document has a token.
    """
    from datasets import Features, Sequence, Value

    # The first call changes the state of a tokenizer, and with it the fingerprint in the cache.
    tokenizer("", add_special_tokens=False)
    processes = num_proc or min(os.cpu_count() or 1, len(texts) // 1000 + 1)
    # On a terminal, `datasets` shows a bar.
    with Progress("Tokenising", show=not sys.stderr.isatty()):
        windows = texts.map(
            _cut,
            batched=True,
            batch_size=_DOCUMENTS,
            remove_columns=texts.column_names,
            features=Features({"input_ids": Sequence(Value("int32")), "cut": Value("int32"), "length": Value("int32")}),
            fn_kwargs={"tokenizer": tokenizer, "max_length": max_length, "pairs": pairs},
            num_proc=processes if processes > 1 else None,
            desc="Tokenising",
        )
    if not len(windows):
        raise UsageError(f"none of the {len(texts)} documents has a token, so there is nothing to train on.")
    return windows


def _cut(batch: Any, tokenizer: PreTrainedTokenizerBase, max_length: int, pairs: bool) -> dict[str, list[Any]]:
    windows = list(segment_windows(texts_of(batch), tokenizer, max_length, pairs))
    return {name: [window[name] for window in windows] for name in ("input_ids", "cut", "length")}
