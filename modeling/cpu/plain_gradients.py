"""Gradients by autograd, in place of the package's own backward passes, which have no gradients themselves."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .eligibility import is_eager_on_cpu


def needs_plain_gradients(gradient: torch.Tensor) -> bool:
    """Return whether a backward pass computes gradients of gradients, or batched gradients."""
    return torch.is_grad_enabled() or not is_eager_on_cpu(gradient)


def plain_gradients(
    function: Callable[..., torch.Tensor],
    inputs: Sequence[torch.Tensor | None],
    needed: Sequence[bool],
    gradient: torch.Tensor,
) -> list[torch.Tensor | None]:
    """Return the gradients of a function of `inputs`, for those that are `needed`, given that of its output."""
    again = torch.is_grad_enabled()

    def apart(each: torch.Tensor | None, is_needed: bool) -> Any:
        if each is None:
            return None
        # Views, because one input may depend on another, as hidden states do on tied weights.
        return each.view_as(each) if again else each.detach().requires_grad_(is_needed)

    with torch.enable_grad():
        own = [apart(*pair) for pair in zip(inputs, needed, strict=True)]
        output = function(*own)
    wanted = [each for each, is_needed in zip(own, needed, strict=True) if is_needed]
    found = iter(torch.autograd.grad(output, wanted, gradient, create_graph=again))
    return [next(found) if is_needed else None for is_needed in needed]
