"""What a run writes for each row, and the counts that it reports."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from .rows import Chunk

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class Counts:
    """The counts of a shard, or of a whole corpus.

    Attributes:
        rows: The number of rows.
        tokens: The number of tokens that were computed, without those that truncation removed.
        truncated: The number of texts that were truncated.
        unknown: The number of tokens that the tokenizer does not know.
        bad: The number of bad rows of each kind.
        entities: The number of entities, if the command finds any number of them in a row.
    """

    rows: int = 0
    tokens: int = 0
    truncated: int = 0
    unknown: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    entities: int | None = None

    def add(self, other: Counts) -> None:
        """Add other counts to these."""
        self.rows += other.rows
        self.tokens += other.tokens
        self.truncated += other.truncated
        self.unknown += other.unknown
        self.bad += other.bad
        if other.entities is not None:
            self.entities = (self.entities or 0) + other.entities

    def to_json(self) -> str:
        """Return the counts as JSON."""
        return json.dumps(vars(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Counts:
        """Return the counts that `to_json` has written."""
        values = json.loads(text)
        return cls(**{**values, "bad": Counter(values["bad"])})


class Computation(Protocol):
    """What a model does with texts. On a GPU, the two steps run in two threads."""

    @property
    def device_type(self) -> str:
        """The type of the device that computes."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the texts."""

    @property
    def fields(self) -> list[pa.Field]:
        """The columns to write."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What describes the results, for the metadata of the files. It must not change when a run is continued."""

    def tokenize(self, texts: list[list[str]]) -> Tokens:
        """Tokenize the columns of texts of a chunk."""

    def compute(self, chunk: Chunk, tokens: Tokens, progress: Any) -> list[pa.Array]:
        """Return the columns of all rows of a chunk, with null for bad rows."""


@dataclass
class Tokens:
    """The tokens of the good rows of a chunk.

    Attributes:
        inputs: Sequences of integers by the names of model inputs; `input_ids` is one of them. Each good row has
            `per_row` lists.
        truncated: The number of texts that were truncated.
        per_row: The number of inputs that a row has, which is that of the labels if each is compared with the text.
    """

    inputs: dict[str, Any]
    truncated: int
    per_row: int = 1

    @property
    def ids(self) -> Any:
        """The token ids of each input."""
        return self.inputs["input_ids"]

    @property
    def count(self) -> int:
        """The number of tokens."""
        return sum(map(len, self._parts))

    def count_of(self, token: int | None) -> int:
        """Return how often a token occurs."""
        return sum(int(np.count_nonzero(np.asarray(ids) == token)) for ids in self._parts)

    @property
    def _parts(self) -> Any:
        """The token ids: an array for all texts, or a list for each text."""
        # A search by words reads results without torch, which this imports.
        from ...tokenizer.token_rows import TokenRows

        return [self.ids.ids] if isinstance(self.ids, TokenRows) else self.ids

    @property
    def rows(self) -> int:
        """The number of good rows."""
        return len(self.ids) // self.per_row


def count_truncated(
    encoded: Any, tokenizer: Any, max_length: int | None, texts: list[list[str]], per_row: int = 1
) -> int:
    """Count the rows of which a tokenizer has truncated an input.

    Args:
        encoded: What the tokenizer has returned.
        tokenizer: The tokenizer.
        max_length: The number of tokens to which it truncates.
        texts: The columns of texts that it has tokenized.
        per_row: See `Tokens`.
    """
    if max_length is None:
        return 0
    full = [i for i, ids in enumerate(encoded["input_ids"]) if len(ids) >= max_length]
    if encoded.encodings is not None:
        truncated = [i for i in full if encoded.encodings[i].overflowing]
    else:
        # A slow tokenizer does not keep what it removes.
        truncated = [i for i in full if len(tokenizer(*(column[i] for column in texts))["input_ids"]) > max_length]
    return len({i // per_row for i in truncated})
