"""The cross entropy over a vocabulary, on a CPU in chunks.

`F.cross_entropy` keeps the log-probabilities of all tokens for the backward pass, which allocates two more tensors of
that size. With a vocabulary of tens of thousands of tokens, these are the largest tensors of a model. On a CPU,
probabilities only exist for a few tokens at a time. The forward pass turns them into gradients right away, and the
backward pass only multiplies these by the gradient of the loss, which is usually 1.

Shapes: n tokens, V vocabulary.
"""

from typing import Any

import torch
from torch.nn import functional as F

from .eligibility import is_eager_on_cpu

# Number of logits in a chunk.
_CHUNK = 1 << 20


def summed_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, ignore_index: int, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the sum of -log softmax(logits)[label] over all labels except `ignore_index`.

    It is computed in float32, or in float64 if the logits are.

    Args:
        logits: (n, V).
        labels: (n,).
        ignore_index: The label to ignore.
        weights: (n,) factors of the terms of the sum, in float32.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if weights is None:
        return F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="sum")
    return (F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none") * weights).sum()


def chunked_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, ignore_index: int, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the result of `summed_cross_entropy` for plain tensors on a CPU."""
    if torch.is_grad_enabled() and logits.requires_grad:
        return _CrossEntropy.apply(logits, labels, ignore_index, weights)
    chunks = logits.split(_rows(logits))
    factors = [None] * len(chunks) if weights is None else weights.split(_rows(logits))
    parts = zip(chunks, labels.split(_rows(logits)), factors, strict=True)
    return torch.stack([summed_cross_entropy(x, y, ignore_index, factor) for x, y, factor in parts]).sum()


def _rows(logits: torch.Tensor) -> int:
    return max(1, _CHUNK // logits.shape[1])


def _loss_and_gradients(
    logits: torch.Tensor, labels: torch.Tensor, ignore_index: int, weights: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    wide = torch.promote_types(logits.dtype, torch.float32)
    counted = labels != ignore_index
    factors = counted.to(wide) if weights is None else counted * weights
    of_logits = torch.empty_like(logits)
    total = torch.zeros((), dtype=torch.promote_types(wide, factors.dtype))
    whole = (logits, labels.masked_fill(~counted, 0), counted, factors, of_logits)
    for chunk, targets, counts, factor, into in zip(*(x.split(_rows(logits)) for x in whole), strict=True):
        probabilities = torch.softmax(chunk, -1, dtype=wide)
        log_sum = chunk.amax(-1) - probabilities.amax(-1).log()
        losses = (log_sum - chunk.gather(1, targets[:, None])[:, 0]) * factor
        total += losses.where(counts, 0).sum()
        probabilities[torch.arange(len(targets)), targets] -= 1
        into.copy_(probabilities.mul_(factor[:, None]))
    return total, of_logits


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, labels: torch.Tensor, ignore_index: int, weights: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(logits, labels, weights)
        ctx.ignore_index = ignore_index
        total, ctx.of_logits = _loss_and_gradients(logits, labels, ignore_index, weights)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        logits, labels, weights = ctx.saved_tensors
        if (again := torch.is_grad_enabled()) or not is_eager_on_cpu(gradient):
            # For gradients of gradients and batched gradients.
            with torch.enable_grad():
                logits = logits if again else logits.detach().requires_grad_()
                loss = summed_cross_entropy(logits, labels, ctx.ignore_index, weights)
            return torch.autograd.grad(loss, logits, gradient, create_graph=again)[0], None, None, None
        of_logits, ctx.of_logits = ctx.of_logits, None
        if of_logits is None:  # This is not the first backward pass.
            of_logits = _loss_and_gradients(logits, labels, ctx.ignore_index, weights)[1]
        return of_logits if bool(gradient == 1) else of_logits.mul_(gradient), None, None, None
