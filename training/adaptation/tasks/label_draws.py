"""Draws the labels that a model reads with a training text: those of its entities, and others as negatives.

GLiNER (Zaratiana et al., 2024, https://arxiv.org/abs/2311.08526) samples negative labels from other texts, shuffles the
labels, and sometimes leaves some out, so that the model learns to read them instead of remembering them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The largest number of labels of a training text, as in GLiNER.
_MOST_LABELS = 25
# The share of the texts that lack some of their labels, and of the labels that are read by their descriptions.
_INCOMPLETE, _DESCRIBED = 0.2, 0.75


class LabelDraws:
    """Puts drawn labels before the words of windows.

    Args:
        tokenizer: The tokenizer.
        fields: The `SpanExtractionFields` of the model.
        names: The labels.
        descriptions: What the model reads for a label, by its name.
        room: The largest number of tokens of all labels of a text.
        trained: (C,) which labels are used in training.

    Attributes:
        most_tokens: The number of tokens that the labels of a text have at most.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        fields: Any,
        names: Sequence[str],
        descriptions: Mapping[str, str],
        room: int,
        trained: np.ndarray,
    ) -> None:
        self.tokenizer, self.fields = tokenizer, fields
        self.names, self.descriptions, self.trained = list(names), descriptions, trained
        # The token before a label is one of its own.
        self.sizes = np.array([1 + max(self._lengths(name)) for name in names])
        self.most_tokens = min(int(self.sizes.sum()), room)
        self.frequencies = np.ones(len(names))

    def _lengths(self, name: str) -> list[int]:
        texts = [name, *([self.descriptions[name]] if name in self.descriptions else [])]
        encoded: Any = self.tokenizer([[text] for text in texts], is_split_into_words=True, add_special_tokens=False)
        return [len(ids) for ids in encoded["input_ids"]]

    def count(self, encoded: Any) -> None:
        """Learn from the training windows how many have each label: frequent ones are more often negatives."""
        self.frequencies = np.zeros(len(self.names))
        for entities, searched in zip(encoded["entities"], encoded["searched"], strict=True):
            labels = {label for *_, label in entities} | {label for label in searched if label >= 0}
            self.frequencies[list(labels)] += 1

    def __call__(self, batch: Mapping[str, Any], rng: np.random.Generator) -> list[dict[str, Any]]:
        """Return the training examples of a batch of windows, see `Draws`."""
        return [self._with(row, self._drawn(row, rng), rng, vary=True) for row in _rows(batch)]

    def with_all(self, batch: Mapping[str, Any], rng: np.random.Generator) -> list[dict[str, Any]]:
        """Return windows with all labels, as far as they fit, for an evaluation."""
        rows, everything = _rows(batch), list(range(len(self.names)))
        if self.sizes.sum() <= self.most_tokens:
            return [{**self._with(row, everything, rng, vary=False), **_places(row)} for row in rows]
        own: dict[int, set[int]] = {}
        for row in rows:
            own.setdefault(row["row"], set()).update(label for *_, label in row["entities"])
        drawn: dict[int, list[int]] = {}
        for text, labels in own.items():
            others = np.array([label for label in everything if label not in labels])
            drawn[text] = sorted(self._fitting([*sorted(labels), *rng.permutation(others).tolist()]))
        return [{**self._with(row, drawn[row["row"]], rng, vary=False), **_places(row)} for row in rows]

    def _drawn(self, row: Mapping[str, Any], rng: np.random.Generator) -> list[int]:
        present = [label for label in dict.fromkeys(label for *_, label in row["entities"]) if self.trained[label]]
        own = rng.permutation(present).tolist()
        if own and rng.random() < _INCOMPLETE:
            own = own[: int(rng.integers(len(own)))]
        allowed = self.trained & (self.frequencies > 0)
        if -1 not in row["searched"]:
            searched = np.zeros(len(self.names), dtype=bool)
            searched[row["searched"]] = True
            allowed = allowed & searched
        allowed[present] = False
        pool = np.flatnonzero(allowed)
        wanted = int(rng.integers(max(len(own), 1), max(_MOST_LABELS, len(own)), endpoint=True)) - len(own)
        # The largest of these sums are a draw without replacement by frequency (Gumbel top-k).
        keys = np.log(self.frequencies[pool]) + rng.gumbel(size=len(pool))
        negatives = pool[np.argsort(-keys)[:wanted]].tolist()
        kept = self._fitting([*own, *negatives] or present[:1] or np.flatnonzero(self.trained)[:1].tolist())
        return rng.permutation(kept).tolist()

    def _fitting(self, labels: list[int]) -> list[int]:
        """Return the first labels that fit, at least one."""
        used = 0
        kept: list[int] = []
        for label in labels:
            used += int(self.sizes[label])
            if kept and used > self.most_tokens:
                break
            kept.append(label)
        return kept

    def _with(self, row: Mapping[str, Any], labels: list[int], rng: np.random.Generator, vary: bool) -> dict[str, Any]:
        from ....modeling.extraction.text_windows import Prompt

        read = []
        for label in labels:
            name = self.names[label]
            described = name in self.descriptions and not (vary and rng.random() > _DESCRIBED)
            read.append(self.descriptions[name] if described else name)
        prompt = Prompt(self.tokenizer, read, self.fields)
        ids, word_ids, label_ids = prompt.around(row["input_ids"], row["word_ids"])
        numbers = {label: number for number, label in enumerate(labels)}
        entities = [[first, last, numbers[label]] for first, last, label in row["entities"] if label in numbers]
        example = {"input_ids": ids, "word_ids": word_ids, "class_ids": label_ids, "labels": entities}
        return example if vary else {**example, "candidates": labels}


def _rows(batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True)]


def _places(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an evaluation needs to find the spans of a window in its text."""
    return {name: row[name] for name in ("row", "first", "owned")}
