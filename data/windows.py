"""Texts cut into windows: runs of whole sentences of one text that fit the model, with the place to cut them in two.

A window never holds parts of two texts. Its two halves are the segments of sentence order (Lan et al., 2020).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import accumulate, chain, islice
from typing import TypedDict

import numpy as np
from transformers import PreTrainedTokenizerBase

# Characters that are tokenised in one call, so that long texts take no more memory than many short ones.
_LOT = 1_000_000
# A sentence ends at a full stop, question or exclamation mark before a space, at an empty line, or before a list item.
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[^a-z\s])|\n\s*\n|\n(?=\s*(?:[-*>]|\w+\s*:|\w+ \())")


class Window(TypedDict):
    """One window.

    Attributes:
        input_ids: its tokens, without special ones.
        cut: how many of them are the first segment; 0 where there is one segment only.
        length: how many tokens it will have with the special ones.
    """

    input_ids: np.ndarray
    cut: int
    length: int


def sentences(text: str) -> list[str]:
    """The sentences, paragraphs and list items of a text."""
    return [part for part in (piece.strip() for piece in _SENTENCE_END.split(text)) if part]


def segment_windows(
    texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, max_length: int, pairs: bool = True
) -> Iterator[Window]:
    """Cuts texts into windows of whole sentences; a longer sentence is cut.

    Args:
        texts: the texts; those without tokens give no window.
        tokenizer: of the model.
        max_length: of a window, with [CLS] and one [SEP], or two where there are two segments.
        pairs: whether to cut windows into two segments, at the sentence boundary that is nearest to the middle.

    Raises:
        ValueError: if `max_length` leaves no room for text.
    """
    special = 3 if pairs else 2
    room = max_length - special
    if room < 2:
        raise ValueError(
            f"max_length must be at least {special + 2}, room for two tokens and {special} special ones, got "
            f"{max_length}."
        )
    for lot in _lots(map(sentences, texts)):
        for sentence_ids in _tokenized(lot, tokenizer):
            for window in _runs(sentence_ids, room):
                cut = _middle(window) if pairs else 0
                ids = np.concatenate(window)
                yield {"input_ids": ids, "cut": cut, "length": len(ids) + (3 if cut else 2)}


def _lots(texts: Iterable[list[str]]) -> Iterator[list[list[str]]]:
    """Texts that are tokenised together: tokenizers work on several cores, but only inside one call."""
    lot: list[list[str]] = []
    characters = 0
    for parts in texts:
        if parts:
            lot.append(parts)
            characters += sum(map(len, parts))
        if characters >= _LOT:
            yield lot
            lot, characters = [], 0
    if lot:
        yield lot


def _tokenized(lot: list[list[str]], tokenizer: PreTrainedTokenizerBase) -> Iterator[list[np.ndarray]]:
    """The token ids of the sentences of each text. A text that speaks of "[MASK]" has none."""
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


def _runs(sentence_ids: list[np.ndarray], room: int) -> Iterator[list[np.ndarray]]:
    """The sentences of one text, in runs of at most `room` tokens."""
    run: list[np.ndarray] = []
    length = 0
    for ids in (part[i : i + room] for part in sentence_ids for i in range(0, len(part), room)):
        if run and length + len(ids) > room:
            yield run
            run, length = [], 0
        run.append(ids)
        length += len(ids)
    if run:
        yield run


def _middle(run: list[np.ndarray]) -> int:
    """The end of a sentence that is nearest to the middle, in tokens; 0 for a single sentence."""
    *ends, total = accumulate(map(len, run))
    return min(ends, key=lambda end: abs(2 * end - total), default=0)
