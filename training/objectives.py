"""The objectives of pretraining: texts cut into windows of two segments, and the collator that masks and swaps them.

A window is a run of consecutive sentences that fits the model. Half of the time its two halves are swapped, and the
model is to tell (sentence order, Lan et al., 2020); some of its tokens are masked, and the model is to restore them
(Devlin et al., 2019).
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerBase

# `{"segments": [first, second]}`, token ids without special tokens; `second` is empty for a single sentence.
Window = dict[str, list[list[int]]]

# A sentence ends at a full stop, question or exclamation mark before a space, at an empty line, or before a list item.
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[^a-z\s])|\n\s*\n|\n(?=\s*(?:[-*>]|\w+\s*:|\w+ \())")


def sentences(text: str) -> list[str]:
    """The sentences, paragraphs and list items of a text."""
    return [part for part in (piece.strip() for piece in _SENTENCE_END.split(text)) if part]


def segment_windows(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Iterator[Window]:
    """Cuts texts into windows of whole sentences, at most `max_length` tokens with [CLS] and two [SEP].

    Yields:
        `{"segments": [first, second]}` token ids without special tokens; `second` is empty for a single sentence.

    Raises:
        ValueError: if `max_length` leaves no room for text.
    """
    room = max_length - 3
    if room < 2:
        raise ValueError(
            f"max_length must be at least 5, room for two tokens and three special ones, got {max_length}."
        )
    remaining = iter(texts)
    while lot := [sentences(text) for text in itertools.islice(remaining, 1000)]:
        # Tokenizers work on several cores, but only inside one call. A text that speaks of "[MASK]" has none.
        encoded = iter(
            tokenizer(
                [part for parts in lot for part in parts],
                add_special_tokens=False,
                split_special_tokens=True,
                return_attention_mask=False,
                verbose=False,
            )["input_ids"]
            if any(lot)
            else []
        )
        for parts in lot:
            yield from _windows(list(itertools.islice(encoded, len(parts))), room)


def _windows(sentence_ids: list[list[int]], room: int) -> Iterator[Window]:
    """The sentences of one text, in runs of at most `room` tokens."""
    window: list[list[int]] = []
    for ids in (part[i : i + room] for part in sentence_ids for i in range(0, len(part), room)):
        if window and sum(map(len, window)) + len(ids) > room:
            yield _halves(window)
            window = []
        window.append(ids)
    if window:
        yield _halves(window)


def _halves(window: list[list[int]]) -> Window:
    """The two segments of most equal length, cut at a sentence boundary."""
    total = sum(map(len, window))
    cuts = range(1, len(window))
    cut = min(cuts, key=lambda i: abs(2 * sum(map(len, window[:i])) - total), default=1)
    return {"segments": [[id_ for part in parts for id_ in part] for parts in (window[:cut], window[cut:])]}


class PretrainingCollator:
    """Makes batches for `SequenceEncoderForPreTraining` of `segment_windows`: swapped half of the time, masked, padded.

    Args:
        tokenizer: needs [CLS], [SEP], [PAD] and [MASK].
        mlm_probability: the share of tokens to predict; of these, 80 % are masked, 10 % replaced, 10 % kept.
        seed: of swaps and masks.

    `Trainer` drops what it does not know: tell it `remove_unused_columns=False`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, mlm_probability: float = 0.3, seed: int = 0) -> None:
        self.tokenizer = tokenizer
        self.mask = DataCollatorForLanguageModeling(tokenizer, mlm_probability=mlm_probability, seed=seed)
        self.rng = random.Random(seed)

    def __call__(self, windows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """`input_ids`, `token_type_ids`, `attention_mask`, `labels` (B, S), `sentence_order_label` (B,): 1 if swapped.

        A window of a single segment has no order to tell: its label is -100.

        Raises:
            ValueError: for windows without segments.
        """
        if windows and "segments" not in windows[0]:
            raise ValueError(
                f"A window has {sorted(windows[0])} and no 'segments'; set remove_unused_columns=False in "
                "TrainingArguments."
            )
        examples, orders = [], []
        for window in windows:
            first, second = window["segments"]
            order = self.rng.randrange(2) if second else -100
            if order == 1:
                first, second = second, first
            examples.append(self._join(first, second))
            orders.append(order)
        batch = self.mask(examples)
        return {**batch, "sentence_order_label": torch.tensor(orders)}

    def _join(self, first: list[int], second: list[int]) -> dict[str, list[int]]:
        cls, sep = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        pair = [*second, sep] if second else []
        return {
            "input_ids": [cls, *first, sep, *pair],
            "token_type_ids": [0] * (len(first) + 2) + [1] * len(pair),
        }
