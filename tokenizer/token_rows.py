"""Tokenizes many texts at once into one array of token ids, without special tokens, for static embeddings.

Shapes: N texts, T tokens of all texts.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerBase

# On ASCII text, BERT's pre-tokenizer splits at spaces, and every punctuation character is a word.
_WORDS = re.compile(r"[A-Za-z0-9]+|[!-/:-@\[-`{-~]")
_ASCII = re.compile(r"[\t\n\r -~]*")
# Normalizers that change nothing in such a text except for the case of letters and spaces.
_NORMALIZERS = {"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents", "Strip"}
# Frequent words are found again soon.
_MOST_WORDS = 2**17
# A regular expression with more alternatives is slower than the tokenizer.
_MOST_ADDED_TOKENS = 50


@dataclass(frozen=True)
class TokenRows(Sequence[Any]):
    """The token ids of texts, one after the other.

    Attributes:
        ids: (T,) int64.
        offsets: (N + 1,) int64, the position of the first token of each text, and T.
        truncated: The number of texts of which tokens were left out, because they were too long.
    """

    ids: np.ndarray
    offsets: np.ndarray
    truncated: int = 0

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], truncated: int = 0) -> "TokenRows":
        """Return the rows of lists of ids."""
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        offsets = np.concatenate([[0], lengths.cumsum()])
        return cls(np.fromiter(itertools.chain.from_iterable(rows), np.int64, offsets[-1]), offsets, truncated)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(np.split(self.ids, self.offsets[1:-1]) if len(self) else [])

    def without(self, tokens: Iterable[int]) -> "TokenRows":
        """Return the rows without some tokens."""
        kept = ~np.isin(self.ids, list(tokens))
        before = np.concatenate([[0], kept.cumsum()])
        return TokenRows(self.ids[kept], before[self.offsets], self.truncated)


class _Words(dict[str, tuple[int, ...]]):
    """The tokens of words that occurred."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = model

    def __missing__(self, word: str) -> tuple[int, ...]:
        found = self[word] = tuple(token.id for token in self._model.tokenize(word))
        return found


class RowTokenizer:
    """Tokenizes texts without special tokens.

    Most of the time of a fast tokenizer goes into finding the words of a text. For an ASCII text and a tokenizer with
    the words of BERT, a regular expression finds the same words, and the tokens of each word are looked up. All other
    texts go to the tokenizer.

    Args:
        tokenizer: A private copy of a tokenizer, without truncation and padding.
        max_length: The number of tokens to truncate texts to, if any.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        self._backend = backend if isinstance(backend, Tokenizer) else None
        self._words = _Words(self._backend.model) if self._backend is not None else None
        self._special = None if self._backend is None else _ascii_reader(self._backend)
        self._lowercases = self._special is not None and self._backend is not None and _lowercases(self._backend)

    def __call__(self, texts: Sequence[str]) -> TokenRows:
        """Return the tokens of texts."""
        rows: list[Any] = [None] * len(texts)
        if self._special is not None and self._words is not None:
            if len(self._words) > _MOST_WORDS:
                self._words.clear()
            find, look_up, is_ascii, has_special = (
                _WORDS.findall,
                self._words.__getitem__,
                _ASCII.fullmatch,
                self._special,
            )
            for index, text in enumerate(texts):
                if is_ascii(text) and not has_special(text):
                    words = find(text.lower() if self._lowercases else text)
                    rows[index] = [*itertools.chain.from_iterable(map(look_up, words))]
        others = [index for index, row in enumerate(rows) if row is None]
        for index, ids in zip(others, self._tokenize([texts[index] for index in others]), strict=True):
            rows[index] = ids
        truncated = 0
        if self.max_length is not None:
            truncated = sum(len(row) > self.max_length for row in rows)
            rows = [row[: self.max_length] for row in rows] if truncated else rows
        return TokenRows.of(rows, truncated)

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        if self._backend is None:
            found: list[list[int]] = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
            return found
        return [encoding.ids for encoding in self._backend.encode_batch_fast(texts, add_special_tokens=False)]


def _ascii_reader(backend: Tokenizer) -> Callable[[str], Any] | None:
    """Return a function that finds added tokens in a text; None if a regular expression cannot find the words."""
    steps = _normalizers(backend)
    added = [token.content for token in backend.get_added_tokens_decoder().values()]
    known = all(step["type"] in _NORMALIZERS for step in steps)
    if not (isinstance(backend.pre_tokenizer, pre_tokenizers.BertPreTokenizer) and known):
        return None
    if len(added) > _MOST_ADDED_TOKENS:
        return None
    # They are found before or after the text is normalised.
    pattern = "|".join(r"\s".join(map(re.escape, re.split(r"\s", content))) for content in added)
    return re.compile(pattern, re.IGNORECASE).search if added else lambda text: None


def _lowercases(backend: Tokenizer) -> bool:
    steps = _normalizers(backend)
    return any(step["type"] == "Lowercase" or step.get("lowercase") for step in steps)


def _normalizers(backend: Tokenizer) -> list[dict[str, Any]]:
    """Return the descriptions of the steps of the normalizer."""
    normalizer: Any = backend.normalizer
    if normalizer is None:
        return []
    found = json.loads(normalizer.__getstate__())
    steps = found.get("normalizers", [found])
    return [step if isinstance(step, dict) else json.loads(step) for step in steps]
