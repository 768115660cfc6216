"""The index of words of a search page. `page/words.js` splits queries in the same way.

Shapes: N texts, W words, P pairs of a word and a text that has it.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

ENGLISH = "English"
# Of Latin letters, as in é.
_ACCENTS = re.compile("[\u0300-\u036f]")
# Scripts without spaces between words: each character counts as a word.
_ALONE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_MOST = 2**32 - 1


@dataclass(frozen=True)
class WordIndex:
    """An inverted index.

    Attributes:
        words: W words, in the order in which JavaScript sorts them.
        starts: (W + 1,) where the texts of each word start.
        steps: (P,) the texts of each word: the number of the first one, and then the differences.
        counts: (P,) how often they have it, at most 255 times.
        lengths: (N,) the number of words of each text.
    """

    words: list[str]
    starts: np.ndarray[Any, Any]
    steps: np.ndarray[Any, Any]
    counts: np.ndarray[Any, Any]
    lengths: np.ndarray[Any, Any]

    def to_bytes(self) -> bytes:
        """Return the arrays, one after the other: three of 32 bits, in the order of the attributes, and the counts."""
        parts = [np.minimum(each, _MOST).astype("<u4") for each in (self.starts, self.steps, self.lengths)]
        return b"".join(part.tobytes() for part in (*parts, self.counts))


def words_of(text: str, language: str) -> Iterator[str]:
    """Yield the words of a text, in lower case and without accents.

    Args:
        text: The text.
        language: Its language. English words lose the ending of their plural.
    """
    for word in _pattern().findall(_ACCENTS.sub("", unicodedata.normalize("NFKD", text).lower())):
        yield singular(word) if language == ENGLISH else word


def singular(word: str) -> str:
    """Remove the ending of an English plural (after the S stemmer of Harman, 1991)."""
    if len(word) > 3 and word.endswith("s"):
        if word.endswith(("sses", "shes", "xes", "nches", "tches")):
            return word[:-2]
        if word.endswith("ies") and word[-4] not in "ea":
            return f"{word[:-3]}y"
        if word.endswith("es") and word[-3] not in "aeo":
            return word[:-1]
        if word[-2] not in "eus":
            return word[:-1]
    return word


def index_words(texts: Iterable[str], language: str) -> WordIndex:
    """Index the words of texts.

    Args:
        texts: The texts.
        language: Their language.
    """
    found: dict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    lengths = []
    for row, text in enumerate(texts):
        in_text = Counter(words_of(text, language))
        lengths.append(in_text.total())
        for word, count in in_text.items():
            rows, times = found[word]
            rows.append(row)
            times.append(min(count, 255))
    words = sorted(found, key=lambda word: word.encode("utf-16-be", "surrogatepass"))
    steps = [np.diff(found[word][0], prepend=0) for word in words]
    counts = [np.array(found[word][1], np.uint8) for word in words]
    starts = np.cumsum([0, *map(len, steps)])
    return WordIndex(words, starts, _joined(steps), _joined(counts).astype(np.uint8), np.array(lengths, np.int64))


def _joined(parts: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


@cache
def _pattern() -> re.Pattern[str]:
    """Return the pattern of a word: letters, digits and the marks on them, of which `re` has no class."""
    marks = "".join(chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] == "M")
    return re.compile(rf"[{_ALONE}]|(?:(?![{_ALONE}])(?:[^\W_]|[{marks}]))+")
