"""The cross entropy over a vocabulary, on a CPU in chunks that stay in the cache.

`F.cross_entropy` keeps the log-probabilities of all tokens for the backward pass, which allocates two more tensors of
that size. With a vocabulary of tens of thousands of tokens, these are the largest tensors of a model. On a CPU,
probabilities only exist for a few tokens at a time. The backward pass recomputes them and only stores gradients.

Shapes: n tokens, V vocabulary.
"""

from typing import Any

import torch
from torch.nn import functional as F

from .eligibility import is_eager_on_cpu

# Number of logits in a chunk.
_CHUNK = 1 << 19


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
    return _CrossEntropy.apply(logits, labels, ignore_index, weights)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, labels: torch.Tensor, ignore_index: int, weights: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(logits, labels, weights)
        ctx.ignore_index, ctx.rows = ignore_index, max(1, _CHUNK // logits.shape[1])
        chunks = logits.split(ctx.rows)
        factors = [None] * len(chunks) if weights is None else weights.split(ctx.rows)
        parts = zip(chunks, labels.split(ctx.rows), factors, strict=True)
        return torch.stack(
            [summed_cross_entropy(chunk, targets, ignore_index, factor) for chunk, targets, factor in parts]
        ).sum()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        logits, labels, weights = ctx.saved_tensors
        if (again := torch.is_grad_enabled()) or not is_eager_on_cpu(gradient):
            # For gradients of gradients and batched gradients.
            with torch.enable_grad():
                logits = logits if again else logits.detach().requires_grad_()
                loss = summed_cross_entropy(logits, labels, ctx.ignore_index, weights)
            return torch.autograd.grad(loss, logits, gradient, create_graph=again)[0], None, None, None
        of_logits = torch.empty_like(logits)
        counted = labels != ctx.ignore_index
        factors = counted if weights is None else counted * weights
        parts = (x.split(ctx.rows) for x in (logits, labels.masked_fill(~counted, 0), factors[:, None], of_logits))
        for chunk, targets, factor, into in zip(*parts, strict=True):
            probabilities = torch.softmax(chunk, -1, dtype=torch.promote_types(chunk.dtype, torch.float32))
            probabilities[torch.arange(len(targets), device=targets.device), targets] -= 1
            into.copy_(probabilities.mul_(gradient * factor))
        return of_logits, None, None, None
