"""The collator of pretraining, which swaps segments and masks tokens.

The model predicts masked tokens (masked language modelling, Devlin et al., 2019), in windows that are cut into two
segments, whether these are swapped, as half of them are (sentence order prediction, Lan et al., 2020), and from the
mean vectors of some windows, which tokens they have (bag-of-words prediction, Ma et al., 2024). In masked diffusion
(Sahoo et al., 2024), each window is masked at its own rate.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ...modeling.label_checks import IGNORED
from ..diffusion_masking import antithetic_rates, mask_at_rate, mask_share
from .objective_arguments import Objectives

# The share of windows that are cut into two segments. If all are, the loss of masked tokens falls more slowly, and the
# encoder is not more useful (benchmarks/RESULTS.md).
_ORDERED = 0.25
# The share of windows whose vectors predict their tokens. The last layer computes all tokens of these windows.
_BAGS = 0.25


class PretrainingCollator:
    """Data collator that builds padded batches from packs of `PackedWindows`, and draws swaps and masks.

    The batches are for `SequenceEncoderForPreTraining`, or without `sop_weight` also for `SequenceEncoderForMaskedLM`.
    The seed of a pack determines what is drawn for it. Set `remove_unused_columns=False` in `TrainingArguments`, or
    `Trainer` drops the columns of the packs.

    Args:
        tokenizer: The tokenizer, which must have [CLS], [SEP], [PAD] and [MASK].
        objectives: The objectives of the training.

    Raises:
        ValueError: If the tokenizer lacks one of these tokens, or whole words are masked and it does not mark where
            words start.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, objectives: Objectives | None = None) -> None:
        self.objectives = objectives or Objectives()
        ids = {name: getattr(tokenizer, f"{name}_token_id") for name in ("cls", "sep", "pad", "mask")}
        if missing := [name for name, token in ids.items() if token is None]:
            raise ValueError(f"tokenizer must have cls, sep, pad and mask tokens, but lacks {', '.join(missing)}.")
        self.cls, self.sep, self.pad, self.mask = ids.values()
        self.vocab_size = len(tokenizer)
        self.continues = continuing_tokens(tokenizer) if self.objectives.whole_word_mask else None
        # Without masked tokens, a window that is not cut would teach nothing.
        share = _ORDERED if self.objectives.mlm_weight else 1.0
        self.ordered = share if self.objectives.sop_weight else 0.0
        self.masked = {"mlm": self._mask_tokens, "diffusion": self._mask_at_rates}[self.objectives.objective]

    def __call__(self, packs: Sequence[Any]) -> dict[str, Any]:
        """Build a batch from packs.

        Args:
            packs: Items of `PackedWindows`.

        Returns:
            `input_ids`, `attention_mask` and `labels` (B, S). For sentence order, also `token_type_ids` (B, S),
            `sentence_order_label` (B,), which is 1 for swapped segments and -100 for a single segment, and the weights.
            A quarter of the windows with a cut have two segments, or all of them without masked tokens. For bags of
            words, `bow_tokens` (B, S), the tokens of a quarter of the windows before masking, and their weight.
            For diffusion, all tokens but [CLS] have labels, and `label_weights` (B, S) are one over the masking rate at
            masked tokens and 0 elsewhere. An item with the key "share" has this share of its tokens masked.

        Raises:
            ValueError: If an item has no windows.
        """
        if packs and "windows" not in packs[0]:
            raise ValueError(
                f"An item must have 'windows', got {sorted(packs[0])}; set remove_unused_columns=False in "
                "TrainingArguments and train on PackedWindows."
            )
        rows: list[np.ndarray] = []
        labels: list[np.ndarray] = []
        weights: list[np.ndarray] = []
        bags: list[np.ndarray] = []
        seconds, orders = [], []
        for pack in packs:
            rng = np.random.default_rng(pack["seed"])
            drawn = rng.random(len(pack["windows"]))
            cuts = np.array([window["cut"] for window in pack["windows"]])
            is_cut = (cuts > 0) & (drawn < self.ordered)
            labelled = np.where(is_cut, drawn < self.ordered / 2, IGNORED).tolist()
            joined = [self._join(window, order) for window, order in zip(pack["windows"], labelled, strict=True)]
            for row, second in joined:
                rows.append(row)
                seconds.append(second)
            orders += labelled
            masked = self.masked(rows[-len(joined) :], pack, rng)
            labels += masked[0]
            weights += masked[1]
            if self.objectives.bow_weight:
                bags += self._bags(rows[-len(joined) :], masked[0], rng)
        batch: dict[str, Any] = {
            "input_ids": _padded(rows, self.pad),
            "attention_mask": _padded([np.ones_like(row) for row in rows], 0),
            "labels": _padded(labels, IGNORED),
        }
        if weights:
            batch["label_weights"] = _padded(weights, 0)
        if bags:
            batch |= {"bow_tokens": _padded(bags, IGNORED), "bow_weight": float(self.objectives.bow_weight)}
        if self.objectives.sop_weight:
            types = [
                (np.arange(len(row)) >= second).astype(row.dtype) for row, second in zip(rows, seconds, strict=True)
            ]
            batch |= {
                "token_type_ids": _padded(types, 0),
                "sentence_order_label": torch.tensor(orders),
                "mlm_weight": float(self.objectives.mlm_weight),
                "sop_weight": float(self.objectives.sop_weight),
            }
        return batch

    def _join(self, window: Any, order: int) -> tuple[np.ndarray, int]:
        """Return the tokens of a row with special tokens, and where the second segment starts."""
        ids = np.asarray(window["input_ids"], dtype=np.int64)
        if order == IGNORED:
            return np.concatenate([[self.cls], ids, [self.sep]]), len(ids) + 2
        first, second = np.split(ids, [window["cut"]])
        if order:
            first, second = second, first
        return np.concatenate([[self.cls], first, [self.sep], second, [self.sep]]), len(first) + 2

    def _bags(self, rows: list[np.ndarray], labels: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
        """Return the tokens that the vectors of masked rows predict: those of a quarter of the rows, before masking."""
        bags = []
        for row, label, drawn in zip(rows, labels, rng.random(len(rows)), strict=True):
            tokens = np.where(label == IGNORED, row, label)
            special = (tokens == self.cls) | (tokens == self.sep)
            bags.append(np.where(special | (drawn >= _BAGS), IGNORED, tokens))
        return bags

    def _mask_at_rates(
        self, rows: list[np.ndarray], pack: Any, rng: np.random.Generator
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Mask each row in place at its own rate, and return the labels and their weights."""
        shares = [pack["share"]] * len(rows) if "share" in pack else antithetic_rates(len(rows), rng)
        mask = mask_share if "share" in pack else mask_at_rate
        labels, weights = [], []
        for row, share in zip(rows, shares, strict=True):
            # The model also learns where a text ends, by [SEP].
            maskable = np.arange(len(row)) > 0
            labels.append(np.where(maskable, row, IGNORED))
            row[:], weight = mask(row, maskable, float(share), self.mask, rng)
            weights.append(weight)
        return labels, weights

    def _mask_tokens(
        self, rows: list[np.ndarray], pack: Any, rng: np.random.Generator
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Mask tokens of the rows in place, and return the labels, without weights."""
        ids = np.concatenate(rows)
        labels = np.full_like(ids, IGNORED)
        ends = np.cumsum([len(row) for row in rows])
        if not self.objectives.mlm_weight:
            # `Trainer` weights the parts of a step by their labels, so each row that can have a loss gets one.
            starts = ends - [len(row) for row in rows]
            bags = self.objectives.bow_weight > 0
            labels[starts[[bags or window["cut"] > 0 for window in pack["windows"]]]] = self.cls
            return np.split(labels, ends[:-1]), []
        special = (ids == self.cls) | (ids == self.sep)
        chosen = rng.random(len(ids)) < self.objectives.probability(pack["progress"])
        if self.continues is not None:
            # The first token of a word decides for all its tokens. Each special token is a separate word.
            words = np.cumsum(~self.continues[ids] | special | np.roll(special, 1))
            chosen = chosen[np.searchsorted(words, words)]
        chosen &= ~special
        labels[chosen] = ids[chosen]
        uniform = rng.random(len(ids))
        replaced = rng.integers(self.vocab_size, size=len(ids))
        ids = np.where(chosen & (uniform < 0.8), self.mask, ids)
        ids = np.where(chosen & (uniform >= 0.9), replaced, ids)
        for row, hidden in zip(rows, np.split(ids, ends[:-1]), strict=True):
            row[:] = hidden
        return np.split(labels, ends[:-1]), []


def _padded(rows: Sequence[np.ndarray], value: int) -> torch.Tensor:
    """Stack rows of one dtype to (B, S), padded with `value`."""
    lengths = np.array([len(row) for row in rows])
    filled = np.full((len(rows), lengths.max()), value, dtype=rows[0].dtype)
    filled[np.arange(filled.shape[1]) < lengths[:, None]] = np.concatenate(rows)
    return torch.from_numpy(filled)


def continuing_tokens(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Return which tokens of a WordPiece, byte-level or SentencePiece tokenizer continue a word, (V,).

    Raises:
        ValueError: If the tokenizer does not mark where words start or continue.
    """
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    backend = getattr(tokenizer, "backend_tokenizer", None)
    form = json.loads(backend.to_str()) if backend is not None else {}
    if form.get("model", {}).get("type") == "WordPiece":
        prefix = form["model"]["continuing_subword_prefix"]
        return np.array([token.startswith(prefix) for token in tokens])
    written = json.dumps([form.get("pre_tokenizer"), form.get("decoder")])
    # Punctuation has no space before it, but does not continue the word.
    if "ByteLevel" in written:
        return np.array([_byte_continues_word(token[:1]) for token in tokens])
    if "Metaspace" in written:
        # Letters, numbers, and the combining marks that many scripts write vowels with. "▁" is in none of these.
        return np.array([unicodedata.category(token[0])[0] in "LNM" if token else False for token in tokens])
    raise ValueError("whole_word_mask needs a tokenizer of WordPiece, byte-level or SentencePiece tokens.")


def _byte_continues_word(sign: str) -> bool:
    """Return whether a byte continues a word: a letter, a digit, or a byte of a non-ASCII character.

    `sign` is the byte's character in a byte-level vocabulary, in which "Ā" to "ġ" are spaces and control characters.
    """
    return sign.isalnum() if sign.isascii() else not "Ā" <= sign <= "ġ"
