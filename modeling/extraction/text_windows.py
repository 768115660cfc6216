"""Splits texts into words and windows, and puts the labels before the words of each, as GLiNER does.

A text that is too long for the model has several windows that overlap, and each span belongs to one of them.
"""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

# GLiNER's splitter of words.
_WORD = re.compile(r"\w+(?:[-_]\w+)*|\S")


def words_of(text: str) -> list[tuple[int, int]]:
    """Return the places of the words of a text: of runs of letters and digits with `-` or `_` inside, and of others."""
    return [match.span() for match in _WORD.finditer(text)]


@dataclass
class TextWindow:
    """A part of a text with the labels before it.

    Attributes:
        text: The index of the text.
        first: The index of its first word in the text.
        num_words: The number of its words.
        ids: The ids of its tokens.
        word_ids: The number of the word in the window that each token belongs to, from 1; 0 if it belongs to no word.
        label_ids: The number of the label that each token stands for, from 1; 0 for others.
        owned: The lowest and the highest sum of the first and the last word, in the text, of spans that belong to it.
    """

    text: int
    first: int
    num_words: int
    ids: list[int]
    word_ids: list[int]
    label_ids: list[int]
    owned: tuple[int, int]

    def owns(self, span: tuple[int, int, int, float]) -> bool:
        """Return whether a span of the text, which may be in several windows, belongs to this one."""
        return self.owned[0] <= span[0] + span[1] <= self.owned[1]


class TooManyTokensError(ValueError):
    """The windows of texts have more tokens than allowed."""


class Prompt:
    """The tokens before and after the words of a text.

    Args:
        tokenizer: The tokenizer.
        labels: The labels, as the model reads them.
        fields: The `SpanExtractionFields` of the model.
        max_length: The largest number of tokens of a window, with these; None for no limit.

    Raises:
        ValueError: If the configuration does not name the tokens around labels, or the labels leave no room for words.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], fields: Any, max_length: int | None = None
    ) -> None:
        self.max_length = max_length
        if fields.label_encoder is not None:
            # The special tokens around a word.
            encoded = tokenizer(["a"], is_split_into_words=True)
            inside = [place for place, word in enumerate(encoded.word_ids()) if word is not None]
            ids = encoded["input_ids"]
            self.before, self.after = ids[: inside[0]], ids[inside[-1] + 1 :]
            self.label_ids = [0] * len(self.before)
            self._leave_room(max_length)
            return
        if fields.label_token_id is None or fields.separator_token_id is None:
            raise ValueError(
                "The model was not trained to read labels: its configuration has no label_token_id and no "
                "separator_token_id in span_extraction."
            )
        marker, separator = map(tokenizer.convert_ids_to_tokens, (fields.label_token_id, fields.separator_token_id))
        words = [word for label in labels for word in (marker, label)]
        encoded = tokenizer([*words, separator], is_split_into_words=True)
        ids, word_ids = encoded["input_ids"], encoded.word_ids()
        inside = [place for place, word in enumerate(word_ids) if word is not None]
        end = inside[-1] + 1
        self.before, self.after = ids[:end], ids[end:]
        markers = [place for place, token in enumerate(self.before) if token == fields.label_token_id]
        places = markers if fields.reads_label_token else [place + 1 for place in markers]
        self.label_ids = [0] * end
        for number, place in enumerate(places, start=1):
            self.label_ids[place] = number
        if len(places) != len(labels):
            raise ValueError(f"labels must not contain {marker!r}, got {list(labels)}.")
        self._leave_room(max_length)

    def _leave_room(self, max_length: int | None) -> None:
        taken = len(self.before) + len(self.after)
        self.room = None if max_length is None else max_length - taken
        if self.room is not None and self.room < 1:
            raise ValueError(
                f"labels take {taken} tokens, and the model reads at most {max_length}; pass fewer or shorter ones."
            )

    def around(self, ids: list[int], word_ids: list[int]) -> tuple[list[int], list[int], list[int]]:
        """Put the tokens of a window between these, and return the ids, the words and the labels of all tokens."""
        before, after = [0] * len(self.before), [0] * len(self.after)
        label_ids = [*self.label_ids, *[0] * len(ids), *after]
        return [*self.before, *ids, *self.after], [*before, *word_ids, *after], label_ids


def windows_of(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    fields: Any,
    max_tokens: int | None = None,
) -> tuple[list[TextWindow], list[list[tuple[int, int]]]]:
    """Split texts into windows.

    Args:
        texts: The texts.
        tokenizer: The tokenizer.
        prompt: The tokens around the words.
        fields: The `SpanExtractionFields` of the model.
        max_tokens: The largest number of tokens of all windows together; None for no limit.

    Returns:
        The windows of all texts, and the places of the words of each text.

    Raises:
        TooManyTokensError: If there are more tokens.
    """
    places = [words_of(text) for text in texts]
    split = [[text[start:end] for start, end in words] for text, words in zip(texts, places, strict=True)]
    return windows_of_words(split, tokenizer, prompt, fields, max_tokens), places


def windows_of_words(
    texts: Sequence[Sequence[str]],
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    fields: Any,
    max_tokens: int | None = None,
) -> list[TextWindow]:
    """Split texts, each a list of words, into windows. For the other arguments, see `windows_of`."""
    encoded: Any = {"input_ids": []}
    if texts:
        # Tokenizers of pieces tokenize each word by itself, so that those of the labels need no repetition.
        options: Any = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
        encoded = tokenizer(list(map(list, texts)), is_split_into_words=True, **options)
    windows: list[TextWindow] = []
    total = 0
    for text, ids in enumerate(encoded["input_ids"]):
        numbers = list(encoded.word_ids(text))
        starts = _starts(len(texts[text]), numbers)
        bounds = _bounds(starts, prompt.room, fields)
        total += len(ids) + len(bounds) * (len(prompt.before) + len(prompt.after))
        if max_tokens is not None and total > max_tokens:
            raise TooManyTokensError(
                f"The windows of the texts, each with all labels, have more than {max_tokens} tokens. Send fewer or "
                "shorter texts, or fewer or shorter labels."
            )
        windows += _split(text, starts, bounds, ids, numbers, prompt)
    return windows


def _starts(count: int, numbers: list[int]) -> list[int]:
    """Return the first token of each of `count` words, or that of the next one for words without tokens."""
    starts, token = [], 0
    for word in range(count + 1):
        while token < len(numbers) and numbers[token] < word:
            token += 1
        starts.append(token)
    return starts


def _split(
    text: int,
    starts: list[int],
    bounds: list[tuple[int, int]],
    ids: list[int],
    numbers: list[int],
    prompt: Prompt,
) -> list[TextWindow]:
    """Return the windows of a text, whose tokens have the given ids and words."""
    room, count = prompt.room, len(starts) - 1
    windows = []
    for index, (first, end) in enumerate(bounds):
        part = slice(starts[first], starts[end])
        if room is not None:
            part = slice(part.start, min(part.stop, part.start + room))
        # A span in two windows belongs to the one in which it is farther from the end of the window.
        low = bounds[index - 1][1] + first - 1 if index else 0
        high = bounds[index + 1][0] + end - 2 if index + 1 < len(bounds) else 2 * count
        word_ids = [number - first + 1 for number in numbers[part]]
        windows.append(TextWindow(text, first, end - first, *prompt.around(ids[part], word_ids), (low, high)))
    return windows


def _bounds(starts: list[int], room: int | None, fields: Any) -> list[tuple[int, int]]:
    """Return the first word of each window and the one after its last; none for a text without words.

    Windows overlap by a quarter, and at least by the widest span if they are twice as long.
    """
    count = len(starts) - 1
    bounds: list[tuple[int, int]] = []
    first = 0
    while first < count:
        end = min(count, first + fields.max_words)
        if room is not None:
            end = max(first + 1, min(end, bisect_right(starts, starts[first] + room) - 1))
        bounds.append((first, end))
        if end == count:
            break
        length = end - first
        overlap = max(length // 4, min(fields.max_width, length // 2))
        first = max(first + 1, end - overlap)
    return bounds


def checked_labels(labels: Sequence[str] | Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return the names of labels, and what the model reads for each: the name, or the description in a mapping.

    Raises:
        ValueError: If there are none, or one is empty, repeated or no text.
    """
    if isinstance(labels, str) or not isinstance(labels, Sequence | Mapping):
        raise ValueError(f"labels must be a list of texts or a dict of descriptions, got {labels!r}.")
    names = list(labels)
    read = [labels[name] for name in names] if isinstance(labels, Mapping) else names
    if not names or not all(isinstance(each, str) and _is_visible(each) for each in (*names, *read)):
        raise ValueError(f"labels must be one or more texts with visible characters, got {labels!r}.")
    if len(set(names)) < len(names):
        raise ValueError(f"labels must differ from each other, got {names}.")
    return names, read


def _is_visible(text: str) -> bool:
    """Return whether a text has more than spaces, control characters, and marks of format such as zero-width spaces."""
    return any(unicodedata.category(character) not in ("Cc", "Cf", "Zl", "Zp", "Zs") for character in text)
