"""The losses of the heads. Users can replace each through `model.loss_function`, with the same arguments.

Each loss is a sum over the labels, divided by `num_items_in_batch` if `Trainer` passes it. This is the number of labels
in all micro-batches of a step, on all devices, so a step gives the same result however it is split. Otherwise the loss
is the mean over the labels of the batch. A batch without labels gives zero, not NaN.

Shapes: B batch, S sequence, C classes, V vocabulary.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ...configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ..cpu.cross_entropy import (
    can_chunk,
    can_chunk_linear,
    chunked_cross_entropy,
    chunked_linear_cross_entropy,
)
from ..label_checks import IGNORED
from ..summed_loss import summed_cross_entropy

Count = torch.Tensor | int | None


def divided_by_count(losses: torch.Tensor, local_count: torch.Tensor | int, num_items_in_batch: Count) -> torch.Tensor:
    """Divide losses or their sum by `num_items_in_batch` if `Trainer` passes it, otherwise by the local count."""
    count = local_count if num_items_in_batch is None else num_items_in_batch
    if isinstance(count, torch.Tensor):
        return losses / count.to(losses.device).clamp(min=1)
    return losses / max(count, 1)


def _at_least_float32(logits: torch.Tensor) -> torch.Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _factors(
    labels: torch.Tensor,
    weights: torch.Tensor | None,
    dtype: torch.dtype,
    local_count: torch.Tensor | int,
    num_items_in_batch: Count,
) -> torch.Tensor:
    """Return the factors (n,) of the losses of logits of a dtype, which include the division by the count.

    Divided afterwards, the gradients of all logits would have to be divided, too.
    """
    one = torch.ones_like(labels, dtype=torch.promote_types(dtype, torch.float32))
    return divided_by_count(one if weights is None else weights, local_count, num_items_in_batch)


def cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    num_items_in_batch: Count = None,
    ignore_index: int = IGNORED,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the cross entropy -log softmax(logits)[label], in float32, or in float64 if the logits are.

    Args:
        logits: (..., C).
        labels: (...).
        num_items_in_batch: The divisor of the sum; by default the number of labels.
        ignore_index: The label to ignore.
        weights: (...) factors of the terms of the sum. They do not change its divisor.
    """
    labels = labels.reshape(-1).to(logits.device, torch.long)
    if weights is not None:
        weights = _at_least_float32(weights.reshape(-1).to(logits.device))
    logits = logits.reshape(-1, logits.shape[-1])
    count = (labels != ignore_index).sum()
    if can_chunk(logits, labels):
        factors = _factors(labels, weights, logits.dtype, count, num_items_in_batch)
        return chunked_cross_entropy(logits, labels, ignore_index, factors)
    total = summed_cross_entropy(logits, labels, ignore_index, weights)
    return divided_by_count(total, count, num_items_in_batch)


def cross_entropy_per_label(
    logits: torch.Tensor, labels: torch.Tensor, class_weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the cross entropy of each label, (..., C) and (...) to (N,), in at least float32; 0 where ignored.

    Args:
        logits: (..., C).
        labels: (...).
        class_weights: (C,) factors of the losses by label.
    """
    logits = _at_least_float32(logits.reshape(-1, logits.shape[-1]))
    labels = labels.reshape(-1).to(logits.device, torch.long)
    class_weights = None if class_weights is None else class_weights.to(logits)
    return F.cross_entropy(logits, labels, class_weights, ignore_index=IGNORED, reduction="none")


def masked_lm_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    vocab_size: int,
    num_items_in_batch: Count = None,
    label_weights: torch.Tensor | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """Return the cross entropy of the masked tokens (Devlin et al., 2019); logits (..., V), labels (...).

    With `label_weights` (...), it is the weighted sum over the masked tokens, divided by the number of all labels.
    """
    return cross_entropy(logits.reshape(-1, vocab_size), labels, num_items_in_batch, weights=label_weights)


def masked_lm_loss_of_states(
    decoder: nn.Linear,
    hidden_states: torch.Tensor,
    labels: torch.Tensor,
    num_items_in_batch: Count = None,
    label_weights: torch.Tensor | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """Return `masked_lm_loss` of the logits of a decoder. On a CPU, the gradients of the logits overwrite them.

    Args:
        decoder: The projection to the vocabulary.
        hidden_states: (m, D), whose first n rows are the labelled tokens, or (B, S, D).
        labels: (n,), none of which is -100, or (B, S).
        num_items_in_batch: See `cross_entropy`.
        label_weights: Factors of the terms of the sum, of the shape of the labels.
        **kwargs: Not used.
    """
    if can_chunk_linear(decoder, hidden_states, labels):
        weights = None if label_weights is None else _at_least_float32(label_weights)
        factors = _factors(labels, weights, hidden_states.dtype, len(labels), num_items_in_batch)
        return chunked_linear_cross_entropy(decoder, hidden_states, labels, factors)
    logits = decoder(hidden_states)
    if labels.dim() == 1:
        logits = logits[: len(labels)]
    return cross_entropy(logits, labels, num_items_in_batch, weights=label_weights)


def label_loss(
    logits: torch.Tensor, labels: torch.Tensor, config: Any = None, num_items_in_batch: Count = None, **kwargs: Any
) -> torch.Tensor:
    """Return the cross entropy of labelled tokens or choices; logits (..., C), labels (...)."""
    return cross_entropy(logits, labels, num_items_in_batch)


def sequence_classification_loss(
    labels: torch.Tensor,
    pooled_logits: torch.Tensor,
    config: SequenceEncoderConfig,
    num_items_in_batch: Count = None,
    **kwargs: Any,
) -> torch.Tensor:
    """Return cross entropy, squared error or binary cross entropy, by `config.problem_type`; pooled_logits (B, C)."""
    if config.problem_type == "single_label_classification":
        return cross_entropy(pooled_logits, labels, num_items_in_batch)
    logits = _at_least_float32(pooled_logits)
    targets = labels.to(logits.device, logits.dtype).view_as(logits)
    error = F.mse_loss if config.problem_type == "regression" else F.binary_cross_entropy_with_logits
    return divided_by_count(error(logits, targets, reduction="sum"), targets.numel(), num_items_in_batch)


def question_answering_loss(
    start_logits: torch.Tensor,
    end_logits: torch.Tensor,
    start_positions: torch.Tensor,
    end_positions: torch.Tensor,
    num_items_in_batch: Count = None,
    **kwargs: Any,
) -> torch.Tensor:
    """Return the mean of the cross entropies of starts and ends, logits (B, S) and positions (B,) each.

    Positions past the end of the sequence are ignored.
    """
    outside = start_logits.shape[1]
    losses = [
        cross_entropy(logits, positions.clamp(max=outside), num_items_in_batch, ignore_index=outside)
        for logits, positions in ((start_logits, start_positions), (end_logits, end_positions))
    ]
    return (losses[0] + losses[1]) / 2


def sentence_order_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    token_labels: torch.Tensor | None = None,
    num_items_in_batch: Count = None,
    **kwargs: Any,
) -> torch.Tensor:
    """Return the cross entropy of the order of two segments (Lan et al., 2020).

    By default, this is the mean over the labelled rows. But if `num_items_in_batch` is the number of masked tokens in a
    step, each row is weighted by its share of them. A micro-batch does not know the number of rows in the step, and
    only these weights give the same sum however the step is split. A row without masked tokens has no weight then.

    Args:
        logits: (B, 2).
        labels: (B,), 1 if the segments are swapped.
        token_labels: (B, S) labels of masked tokens.
        num_items_in_batch: The number of masked tokens in the step.
        **kwargs: Not used.
    """
    if token_labels is None or num_items_in_batch is None:
        return cross_entropy(logits, labels)
    return _weighted_by_masks(cross_entropy_per_label(logits, labels), token_labels, num_items_in_batch)


def bag_of_words_loss(
    logits: torch.Tensor,
    tokens: torch.Tensor,
    token_labels: torch.Tensor | None = None,
    num_items_in_batch: Count = None,
    **kwargs: Any,
) -> torch.Tensor:
    """Return the loss of predicting which tokens a text has, from its vector (Ma et al., 2024, arXiv 2401.11248).

    The loss of a text is the mean of -log softmax(logits)[token] over its distinct tokens. By default, this function
    returns the mean over the texts, but if `num_items_in_batch` is the number of masked tokens in a step, it weights
    each text by its share of them, as `sentence_order_loss` does.

    Args:
        logits: (n, V).
        tokens: (n, S) token ids of the texts, -100 at those to ignore.
        token_labels: (n, S) labels of masked tokens.
        num_items_in_batch: The number of masked tokens in the step.
        **kwargs: Not used.
    """
    logits, tokens, size = _at_least_float32(logits), tokens.long(), logits.shape[-1]
    # The last column is that of the tokens to ignore.
    columns = torch.where(tokens == IGNORED, size, tokens)
    present = logits.new_zeros(len(tokens), size + 1).scatter_(1, columns, 1)[:, :size]
    losses = -(present * logits.log_softmax(dim=-1)).sum(dim=-1) / present.sum(dim=-1).clamp(min=1)
    if token_labels is None or num_items_in_batch is None:
        return divided_by_count(losses.sum(), len(losses), None)
    return _weighted_by_masks(losses, token_labels, num_items_in_batch)


def _weighted_by_masks(losses: torch.Tensor, token_labels: torch.Tensor, num_items_in_batch: Count) -> torch.Tensor:
    """Return the sum of the losses of rows, each weighted by its share of the masked tokens of a step."""
    rows = token_labels.reshape(len(losses), token_labels.numel() // max(len(losses), 1))
    masked = (rows.long() != IGNORED).sum(dim=1).to(losses.device)
    return divided_by_count((losses * masked).sum(), masked.sum(), num_items_in_batch)


def zero_shot_classification_loss(
    logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: Count = None, **kwargs: Any
) -> torch.Tensor:
    """Return the binary cross entropy of all labels of all texts, or the cross entropy of the right labels.

    Args:
        logits: (B, C).
        labels: (B, C) numbers from 0 to 1, or -100 where they are ignored; or (B,) the index of the right label.
        num_items_in_batch: The divisor of the sum; by default the number of values in `labels` that are not -100.
        **kwargs: Not used.
    """
    if labels.dim() == 1:
        return cross_entropy(logits, labels, num_items_in_batch)
    logits = _at_least_float32(logits)
    targets = labels.to(logits.device, logits.dtype)
    known = targets != IGNORED
    losses = F.binary_cross_entropy_with_logits(logits, targets.clamp(min=0), reduction="none")
    return divided_by_count(losses.masked_fill(~known, 0).sum(), known.sum(), num_items_in_batch)


def span_extraction_loss(
    scores: list[torch.Tensor],
    targets: list[torch.Tensor],
    labels: torch.Tensor,
    num_items_in_batch: Count = None,
    **kwargs: Any,
) -> torch.Tensor:
    """Return the sum of the binary cross entropies of all spans and labels, divided by the numbers in `labels`.

    The number of entities divides the sum, as in object detection (Lin et al., 2017), because most spans are none.

    Args:
        scores: Logits of each text, (W, K, C) or (W, C, 3).
        targets: Zeros and ones of the same shapes.
        labels: (B, E, 3) first word, last word and label of each entity; -100 for rows of no entity.
        num_items_in_batch: The divisor of the sum; by default the number of values in `labels` that are not -100.
        **kwargs: Not used.
    """
    pairs = zip(scores, targets, strict=True)
    losses = [F.binary_cross_entropy_with_logits(_at_least_float32(a), b, reduction="sum") for a, b in pairs]
    return divided_by_count(torch.stack(losses).sum(), (labels != IGNORED).sum(), num_items_in_batch)
