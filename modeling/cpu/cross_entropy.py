"""The cross entropy over a vocabulary, on a CPU in chunks.

`F.cross_entropy` keeps the log-probabilities of all tokens for the backward pass, which allocates two more tensors of
that size. With a vocabulary of tens of thousands of tokens, these are the largest tensors of a model. On a CPU,
probabilities only exist for a few tokens at a time. The forward pass turns them into gradients right away, and the
backward pass only multiplies these by the gradient of the loss, which is usually 1.

Shapes: n tokens, V vocabulary.
"""

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..label_checks import IGNORED
from ..summed_loss import summed_cross_entropy
from .eligibility import is_eager_on_cpu, is_plain_linear
from .linear import product
from .plain_gradients import needs_plain_gradients, plain_gradients
from .shapes import dtype_of_products

# Number of logits in a chunk.
_CHUNK = 1 << 20
# Probabilities below it have lost digits, or are 0.
_SMALLEST = torch.finfo(torch.float32).tiny / torch.finfo(torch.float32).eps


def can_chunk(logits: torch.Tensor, labels: torch.Tensor) -> bool:
    """Return whether `chunked_cross_entropy` can compute a loss and its gradients."""
    # In float16, gradients that are not multiplied by the scale of the loss would become 0.
    return logits.dtype != torch.float16 and is_eager_on_cpu(logits, labels)


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


def can_chunk_linear(linear: nn.Linear, x: torch.Tensor, labels: torch.Tensor) -> bool:
    """Return whether `chunked_linear_cross_entropy` can compute a layer and its gradients."""
    return (
        torch.is_grad_enabled()
        and is_eager_on_cpu(x, labels, *linear.parameters())
        and x.dim() == 2
        and is_plain_linear(linear, x.shape[1])
        # In float16, gradients that are not multiplied by the scale of the loss would become 0.
        and dtype_of_products(x, linear.weight, linear.bias) not in (None, torch.float16)
    )


def chunked_linear_cross_entropy(
    linear: nn.Linear, x: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Return the result of `summed_cross_entropy` for the logits of a layer, which their gradients overwrite.

    Args:
        linear: The layer, with V outputs.
        x: (m, D) the input of the layer, of which the first n rows have labels.
        labels: (n,), all of which count.
        weights: (n,) factors of the terms of the sum, in at least float32.
    """
    extra = (0, len(x) - len(labels))
    labels, weights = F.pad(labels, extra, value=IGNORED), F.pad(weights, extra)
    tensors = (x, linear.weight, linear.bias)
    dtype = dtype_of_products(*tensors)
    return _LinearCrossEntropy.apply(*(None if each is None else each.to(dtype) for each in tensors), labels, weights)


def _rows(logits: torch.Tensor) -> int:
    return max(1, _CHUNK // logits.shape[1])


def _loss_and_gradients(
    logits: torch.Tensor,
    labels: torch.Tensor,
    ignore_index: int,
    weights: torch.Tensor | None,
    of_logits: torch.Tensor,
) -> torch.Tensor:
    """Write the gradients of logits to `of_logits`, which may be the logits themselves, and return the loss."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    counted = labels != ignore_index
    factors = counted.to(wide) if weights is None else counted * weights
    total = torch.zeros((), dtype=torch.promote_types(wide, factors.dtype))
    whole = (logits, labels.masked_fill(~counted, 0), counted, factors, of_logits)
    for chunk, targets, counts, factor, into in zip(*(x.split(_rows(logits)) for x in whole), strict=True):
        probabilities = torch.softmax(chunk, -1, dtype=wide)
        of_labels = probabilities.gather(1, targets[:, None])
        losses = -of_labels[:, 0].log()
        if (unlikely := of_labels[:, 0] < _SMALLEST).any():
            losses[unlikely] = F.cross_entropy(chunk[unlikely].to(wide), targets[unlikely], reduction="none")
        total += (losses * factor).where(counts, 0).sum()
        probabilities.scatter_(1, targets[:, None], of_labels - 1)
        into.copy_(probabilities.mul_(factor[:, None]))
    return total


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, labels: torch.Tensor, ignore_index: int, weights: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(logits, labels, weights)
        ctx.ignore_index = ignore_index
        ctx.of_logits = torch.empty_like(logits)
        return _loss_and_gradients(logits, labels, ignore_index, weights, ctx.of_logits)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        logits, labels, weights = ctx.saved_tensors
        if needs_plain_gradients(gradient):
            loss = partial(summed_cross_entropy, labels=labels, ignore_index=ctx.ignore_index, weights=weights)
            return *plain_gradients(loss, [logits], [True], gradient), None, None, None
        of_logits, ctx.of_logits = ctx.of_logits, None
        if of_logits is None:  # This is not the first backward pass.
            of_logits = torch.empty_like(logits)
            _loss_and_gradients(logits, labels, ctx.ignore_index, weights, of_logits)
        return of_logits if bool(gradient == 1) else of_logits.mul_(gradient), None, None, None


class _LinearCrossEntropy(torch.autograd.Function):
    """The cross entropy of the logits xWᵀ + b, which keeps their gradients in place of the logits."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight, bias, labels, weights)
        ctx.of_logits = product(x, weight, bias)
        return _loss_and_gradients(ctx.of_logits, labels, IGNORED, weights, ctx.of_logits)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, bias, labels, weights = ctx.saved_tensors
        needed = ctx.needs_input_grad[:3]
        if needs_plain_gradients(gradient):

            def loss(*inputs: Any) -> torch.Tensor:
                return summed_cross_entropy(F.linear(*inputs), labels, IGNORED, weights)

            return *plain_gradients(loss, (x, weight, bias), needed, gradient), None, None
        of_logits, ctx.of_logits = ctx.of_logits, None
        if of_logits is None:  # This is not the first backward pass.
            of_logits = product(x, weight, bias)
            _loss_and_gradients(of_logits, labels, IGNORED, weights, of_logits)
        if not bool(gradient == 1):
            of_logits.mul_(gradient)
        of_x = product(of_logits, weight.t()) if needed[0] else None
        of_weight = of_logits.t() @ x if needed[1] else None
        return of_x, of_weight, of_logits.sum(0) if needed[2] else None, None, None
