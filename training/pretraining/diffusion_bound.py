"""The bound on the negative log-likelihood of texts that a model trained with masked diffusion gives.

A window with k masks among its L tokens contributes L / k times the cross entropy of its masked tokens. The mean over k
from 1 to L and over the places of the masks bounds the negative log-likelihood of the window, given its [CLS] (MDLM,
Sahoo et al., 2024; LLaDA, Nie et al., 2025). It is estimated with masks at evenly spaced rates, which are the same in
every evaluation.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

from ...data.argument_checks import check_count
from ...data.batching import token_batches
from ...data.packs import Pack, lengths_of
from ...data.windows import segment_windows
from ...modeling.text_encoding.evaluation_mode import evaluation_mode
from ..diffusion_trainer import masked_sums
from .objective_arguments import Objectives
from .objectives import PretrainingCollator

# Number of masking rates at which each window is evaluated. More cost time and hardly reduce the variance.
RATES = 5
# Number of intervals of the loss by rate. The windows cover them together.
_INTERVALS = 10
# The prefix of the names of logged losses by masking rate.
BY_RATE = "loss_at_rate_"


@dataclass(frozen=True)
class DiffusionBound:
    """A bound on the negative log-likelihood of texts.

    Attributes:
        nats_per_token: The bound in nats for each token that a model can predict: those of the text, and one for its
            end in each window.
        bits_per_byte: The bound in bits for each byte of the texts in UTF-8.
        accuracy: The share of masked tokens that the model predicts.
        by_rate: The mean cross entropy of masked tokens in nats, by the middle of the interval of masking rates.
        tokens: The number of tokens.
        text_bytes: The number of bytes.
    """

    nats_per_token: float
    bits_per_byte: float
    accuracy: float
    by_rate: dict[float, float]
    tokens: int
    text_bytes: int

    def metrics(self) -> dict[str, float]:
        """Return the values under the names that pretraining logs."""
        return {
            "bound": self.nats_per_token,
            "bits_per_byte": self.bits_per_byte,
            "mlm_accuracy": self.accuracy,
            **{f"{BY_RATE}{rate:g}": loss for rate, loss in self.by_rate.items()},
        }


class MaskedPack(Pack):
    """A pack with a given share of its tokens to mask."""

    share: float


class BoundWindows(Dataset[MaskedPack]):
    """An evaluation dataset with each window at several masking rates, one per item.

    The rates of a window are evenly spaced. Their offsets differ between windows and are evenly spaced, too.

    Args:
        windows: The windows of `segment_windows`, in a list or a `datasets.Dataset`.
        text_bytes: The number of bytes of their texts in UTF-8.
        seed: The seed of the offsets and the masks.
        rates: The number of rates.
    """

    def __init__(self, windows: Any, text_bytes: int, seed: int = 0, rates: int = RATES) -> None:
        self.windows, self.text_bytes, self.seed, self.rates = windows, text_bytes, seed, rates
        # Each window has a [CLS], which is never masked.
        self.tokens = int(lengths_of(windows).sum()) - len(windows)
        self.offsets = (np.random.default_rng(seed).permutation(len(windows)) + 0.5) / max(len(windows), 1)

    def __len__(self) -> int:
        return len(self.windows) * self.rates

    def __getitem__(self, index: int) -> MaskedPack:
        window, stratum = divmod(index, self.rates)
        return {
            "windows": [self.windows[window]],
            "seed": [self.seed, index],
            "progress": 0.0,
            "share": float((stratum + self.offsets[window]) / self.rates),
        }


def bound_of(sums: Any, counts: Any, data: BoundWindows) -> DiffusionBound:
    """Compute the bound from the results of `masked_sums` over all items of a dataset."""
    weighted, losses, right, masked = np.asarray(sums, dtype=np.float64).T
    counts = np.asarray(counts, dtype=np.float64)
    nats_per_token = float(weighted.sum() / counts.sum())
    place = np.minimum((masked / counts * _INTERVALS - 1e-9).astype(int), _INTERVALS - 1)
    by_rate = {
        (number + 0.5) / _INTERVALS: float(losses[place == number].sum() / masked[place == number].sum())
        for number in np.unique(place).tolist()
    }
    return DiffusionBound(
        nats_per_token=nats_per_token,
        bits_per_byte=nats_per_token / math.log(2) * data.tokens / data.text_bytes,
        accuracy=float(right.sum() / masked.sum()),
        by_rate=by_rate,
        tokens=data.tokens,
        text_bytes=data.text_bytes,
    )


def bound_metrics(data: BoundWindows | None) -> Callable[[EvalPrediction], dict[str, float]] | None:
    """Return the `compute_metrics` of a `DiffusionTrainer`."""
    return None if data is None else functools.partial(_metrics, data)


def _metrics(data: BoundWindows, prediction: EvalPrediction) -> dict[str, float]:
    return bound_of(prediction.predictions, prediction.label_ids, data).metrics()


@torch.no_grad()
def diffusion_bound(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_length: int = 512,
    *,
    rates: int = RATES,
    max_tokens: int = 4096,
    seed: int = 0,
) -> DiffusionBound:
    """Estimate a bound on the negative log-likelihood of texts under a masked language model.

    It is only low for a model that was trained with masks at every rate, such as by `pretrain --objective diffusion`.
    The texts are cut into windows of whole sentences, each of which is independent of the others.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        texts: The texts.
        max_length: The maximum number of tokens in a window.
        rates: The number of masking rates at which each window is evaluated.
        max_tokens: The maximum number of tokens in a batch. A longer window gets its own batch.
        seed: The seed of the masks.

    Returns:
        The bound. It counts the tokens of the windows with a final [SEP] each, and all bytes of the texts. A tokenizer
        that loses parts of the texts, such as line breaks, makes bits a byte lower than they should be.

    Raises:
        ValueError: If an argument is out of range, or the texts have no token.
    """
    for name, value in (("rates", rates), ("max_tokens", max_tokens)):
        check_count(value, name)
    if isinstance(texts, str):
        raise ValueError(f"texts must be a list of texts, got the text {texts[:40]!r}.")
    windows = list(segment_windows(texts, tokenizer, max_length, pairs=False))
    if not windows:
        raise ValueError("texts must have at least one token.")
    data = BoundWindows(windows, sum(len(text.encode()) for text in texts), seed, rates)
    collate = PretrainingCollator(tokenizer, Objectives(objective="diffusion"))
    lengths = lengths_of(windows).repeat(rates).tolist()
    found = []
    with evaluation_mode(model):
        for places in token_batches(lengths, max_tokens):
            batch = {name: value.to(model.device) for name, value in collate([data[i] for i in places]).items()}
            labels, weights = batch.pop("labels"), batch.pop("label_weights")
            logits = model(**batch).logits[weights > 0]
            found.append([each.cpu() for each in masked_sums(logits, labels, weights, tokenizer.pad_token_id)])
    sums, counts = (torch.cat(each) for each in zip(*found, strict=True))
    return bound_of(sums, counts, data)
