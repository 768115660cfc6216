"""Tables of weights: which of our tensors holds which tensors of another family, both ways.

A table is a list of rules, one for each tensor of ours, with `{}` for the number of a layer. Every rule can be undone,
so that one table serves both directions. Shapes: D hidden, H heads, C channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from transformers.utils import logging

logger = logging.get_logger(__name__)

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Layout:
    """How several tensors of theirs make one of ours, and how it is taken apart again, given the number of heads."""

    join: Callable[[list[torch.Tensor], int], torch.Tensor]
    split: Callable[[torch.Tensor, int, int], list[torch.Tensor]]


def _heads_of_three(tensors: list[torch.Tensor], heads: int) -> torch.Tensor:
    """Query, key and value, each (H·C, …), to (H·3·C, …): head by head, as `qkv_proj` has them."""
    return torch.stack([tensor.unflatten(0, (heads, -1)) for tensor in tensors], dim=1).flatten(0, 2)


def _three_of_heads(tensor: torch.Tensor, heads: int, count: int) -> list[torch.Tensor]:
    return [
        part.flatten(0, 1).clone(memory_format=torch.contiguous_format)
        for part in tensor.unflatten(0, (heads, 3, -1)).unbind(1)
    ]


# The same tensor. Of several names for one tensor the first is the one in use: untied, the others are dead weight.
SAME = Layout(
    lambda tensors, heads: tensors[0],
    lambda tensor, heads, count: [tensor, *(tensor.clone() for _ in range(count - 1))],
)
# Three tensors: query, key, value.
SEPARATE_QKV = Layout(_heads_of_three, _three_of_heads)
# One tensor, the queries of all heads before the keys and the values.
STACKED_QKV = Layout(
    lambda tensors, heads: _heads_of_three(list(tensors[0].chunk(3)), heads),
    lambda tensor, heads, count: [torch.cat(_three_of_heads(tensor, heads, 3))],
)


@dataclass(frozen=True)
class Rule:
    """One tensor of ours, and what holds it in the other family."""

    ours: str
    theirs: tuple[str, ...]
    layout: Layout = SAME

    def named(self, ours: Callable[[str], str], theirs: Callable[[str], str]) -> Rule:
        """The same rule with other names."""
        return replace(self, ours=ours(self.ours), theirs=tuple(theirs(name) for name in self.theirs))


def module(ours: str, *theirs: str, layout: Layout = SAME) -> list[Rule]:
    """The rules of the weight and of the bias of a module."""
    return [Rule(f"{ours}.{kind}", tuple(f"{name}.{kind}" for name in theirs), layout) for kind in ("weight", "bias")]


def with_prefixes(rules: Iterable[Rule], ours: str, theirs: str) -> list[Rule]:
    """The rules with something before all names."""
    return [rule.named(lambda name: ours + name, lambda name: theirs + name) for rule in rules]


def for_layers(rules: Iterable[Rule], count: int) -> list[Rule]:
    """The rules of one layer, with `{}` in their names, for each of `count` layers."""
    return [rule.named(*[lambda name, i=i: name.format(i)] * 2) for i in range(count) for rule in rules]


def to_ours(rules: Iterable[Rule], theirs: Tensors, needed: Iterable[str], heads: int) -> Tensors:
    """The tensors that our model needs, made of all of theirs, which are taken out of `theirs` one after the other.

    Of two rules for a tensor, the later one holds.

    Raises:
        ValueError: if a tensor is missing or left over; the message names it.
    """
    by_name = {rule.ours: rule for rule in rules}
    ours: Tensors = {}
    for name in needed:
        rule = by_name[name]
        if absent := [key for key in rule.theirs if key not in theirs]:
            raise ValueError(f"The checkpoint has no {', '.join(absent)}.")
        tensors = [theirs.pop(key) for key in rule.theirs]
        if rule.layout is SAME:
            _warn_of_dead_weights(rule, tensors)
        ours[name] = rule.layout.join(tensors, heads)
    if theirs:
        raise ValueError(f"The checkpoint has tensors that no part of our model takes: {', '.join(sorted(theirs))}.")
    return ours


def _warn_of_dead_weights(rule: Rule, tensors: list[torch.Tensor]) -> None:
    for key, tensor in zip(rule.theirs[1:], tensors[1:], strict=True):
        if not torch.equal(tensor, tensors[0]):
            logger.warning(
                f"{key} is not carried over: the model uses {rule.theirs[0]} instead, which differs from it."
            )


def to_theirs(rules: Iterable[Rule], ours: Tensors, heads: int) -> Tensors:
    """Their tensors, made of all of ours, which are taken out of `ours`; `to_ours` undone.

    Raises:
        ValueError: if a tensor of ours has no place there; the message names it.
    """
    by_name = {rule.ours: rule for rule in rules}
    if homeless := sorted(ours.keys() - by_name.keys()):
        raise ValueError(f"The other family has no place for the tensors {', '.join(homeless)}.")
    theirs: Tensors = {}
    for name in list(ours):
        rule = by_name[name]
        theirs.update(zip(rule.theirs, rule.layout.split(ours.pop(name), heads, len(rule.theirs)), strict=True))
    return theirs
