"""Weight tables, which map our tensors to the tensors of another family.

A table is a list of rules, one for each of our tensors, with `{}` for the layer index. Every rule is invertible, so one
table serves both directions. Shapes: D hidden size, H heads, G heads of keys and values, C channels per head.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from transformers.utils import logging

from ..command_line.progress import Progress, counted_by

if TYPE_CHECKING:
    import torch

logger = logging.get_logger(__name__)

Tensors: TypeAlias = "dict[str, torch.Tensor]"


class Heads(NamedTuple):
    """The numbers of attention heads of a model."""

    queries: int
    keys: int


@dataclass(frozen=True)
class Layout:
    """A pair of functions that join their tensors into one of ours and split it again, given the numbers of heads."""

    join: Callable[[list[torch.Tensor], Heads], torch.Tensor]
    split: Callable[[torch.Tensor, Heads, int], list[torch.Tensor]]


def concatenated(tensors: Sequence[torch.Tensor], axis: int = 0) -> torch.Tensor:
    """Return `torch.cat` of tensors. The tables of the families do not import torch, so that `inspect` starts fast."""
    import torch

    return torch.cat(list(tensors), axis)


def _heads_of_three(tensors: list[torch.Tensor], heads: Heads) -> torch.Tensor:
    """Interleave query (H·C, …), and key and value (G·C, …), into the (G·(H/G + 2)·C, …) layout of `qkv_proj`."""
    return concatenated([tensor.unflatten(0, (heads.keys, -1)) for tensor in tensors], 1).flatten(0, 1)


def _three_of_heads(tensor: torch.Tensor, heads: Heads, count: int) -> list[torch.Tensor]:
    groups = tensor.unflatten(0, (heads.keys, -1))
    repeats = heads.queries // heads.keys
    channels = groups.shape[1] // (repeats + 2)
    parts = groups.split([repeats * channels, channels, channels], dim=1)
    return [part.flatten(0, 1).clone().contiguous() for part in parts]


def _unstacked(tensor: torch.Tensor, heads: Heads) -> list[torch.Tensor]:
    channels = len(tensor) // (heads.queries + 2 * heads.keys)
    return list(tensor.split([count * channels for count in (heads.queries, heads.keys, heads.keys)]))


def _half_split(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Reorder the rows of each head from rotary pairs (2i, 2i + 1) to pairs (i, i + C / 2)."""
    return tensor.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def _adjacent(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Reorder the rows of each head from rotary pairs (i, i + C / 2) to pairs (2i, 2i + 1)."""
    return tensor.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def _half_split_heads_of_three(tensors: list[torch.Tensor], heads: Heads) -> torch.Tensor:
    query, key, value = tensors
    return _heads_of_three([_half_split(query, heads.queries), _half_split(key, heads.keys), value], heads)


def _three_of_adjacent_heads(tensor: torch.Tensor, heads: Heads, count: int) -> list[torch.Tensor]:
    query, key, value = _three_of_heads(tensor, heads, count)
    return [_adjacent(query, heads.queries), _adjacent(key, heads.keys), value]


# The same tensor on both sides. If theirs has several names, the model uses the first; an untied copy is dead weight.
SAME = Layout(
    lambda tensors, heads: tensors[0],
    lambda tensor, heads, count: [tensor, *(tensor.clone() for _ in range(count - 1))],
)
# Query, key and value in three tensors.
SEPARATE_QKV = Layout(_heads_of_three, _three_of_heads)
# The same, for rotary positions that rotate adjacent channels of queries and keys. Scores do not depend on their order.
SEPARATE_QKV_OF_ADJACENT_PAIRS = Layout(_half_split_heads_of_three, _three_of_adjacent_heads)
# Both, in one tensor in which the query, the key and the value of a head follow each other, as in ours.
QKV_OF_ADJACENT_PAIRS = Layout(
    lambda tensors, heads: _half_split_heads_of_three(_three_of_heads(tensors[0], heads, 3), heads),
    lambda tensor, heads, count: [_heads_of_three(_three_of_adjacent_heads(tensor, heads, 3), heads)],
)
# Several tensors, one below the other.
STACKED = Layout(
    lambda tensors, heads: concatenated(tensors),
    lambda tensor, heads, count: [part.clone() for part in tensor.chunk(count)],
)
# One tensor with the queries of all heads, then the keys, then the values.
STACKED_QKV = Layout(
    lambda tensors, heads: _heads_of_three(_unstacked(tensors[0], heads), heads),
    lambda tensor, heads, count: [concatenated(_three_of_heads(tensor, heads, 3))],
)
# A convolution over tokens, (out, in, width), which is a linear layer of the neighbours, (out, width · in).
CONVOLUTION = Layout(
    lambda tensors, heads: tensors[0].transpose(1, 2).flatten(1),
    lambda tensor, heads, count: [tensor.unflatten(1, (-1, len(tensor))).transpose(1, 2).contiguous()],
)


@dataclass(frozen=True)
class Rule:
    """Maps one of our tensors to the corresponding tensors of the other family."""

    ours: str
    theirs: tuple[str, ...]
    layout: Layout = SAME

    def named(self, ours: Callable[[str], str], theirs: Callable[[str], str]) -> Rule:
        """Return the same rule with both names transformed."""
        return replace(self, ours=ours(self.ours), theirs=tuple(theirs(name) for name in self.theirs))


def module(ours: str, *theirs: str, layout: Layout = SAME) -> list[Rule]:
    """Return the rules for the weight and the bias of a module."""
    return [Rule(f"{ours}.{kind}", tuple(f"{name}.{kind}" for name in theirs), layout) for kind in ("weight", "bias")]


def with_prefixes(rules: Iterable[Rule], ours: str, theirs: str) -> list[Rule]:
    """Return the rules with prefixes added to our names and to theirs."""
    return [rule.named(lambda name: ours + name, lambda name: theirs + name) for rule in rules]


def for_layers(rules: Iterable[Rule], count: int) -> list[Rule]:
    """Repeat the rules of one layer for each of `count` layers, with the index in place of `{}`."""
    return [rule.named(*[lambda name, i=i: name.format(i)] * 2) for i in range(count) for rule in rules]


def to_ours(rules: Iterable[Rule], theirs: Tensors, needed: Iterable[str], heads: Heads) -> Tensors:
    """Build the tensors that our model needs from theirs.

    Args:
        rules: The rules of the model. If two rules name the same tensor, the later one applies.
        theirs: Their tensors. Each one is removed when it is used for the last time.
        needed: The names of our tensors.
        heads: The numbers of attention heads.

    Raises:
        ValueError: If a tensor is missing or unused. The message names it.
    """
    by_name = {rule.ours: rule for rule in rules}
    needed = list(needed)
    uses = Counter(key for name in needed for key in by_name[name].theirs)
    ours: Tensors = {}
    for name in counted_by(Progress("Converting the weights", len(needed), "weight"), needed):
        rule = by_name[name]
        if absent := [key for key in rule.theirs if key not in theirs]:
            raise ValueError(f"The checkpoint has no {', '.join(absent)}.")
        uses.subtract(rule.theirs)
        tensors = [theirs[key] if uses[key] else theirs.pop(key) for key in rule.theirs]
        if rule.layout is SAME:
            _warn_about_unused_weights(rule, tensors)
        ours[name] = rule.layout.join(tensors, heads)
    if theirs:
        raise ValueError(f"The checkpoint has tensors that our model does not use: {', '.join(sorted(theirs))}.")
    return ours


def _warn_about_unused_weights(rule: Rule, tensors: list[torch.Tensor]) -> None:
    for key, tensor in zip(rule.theirs[1:], tensors[1:], strict=True):
        if not tensor.equal(tensors[0]):
            logger.warning(
                f"{key} is not converted, because the model uses {rule.theirs[0]} instead, which has different values."
            )


def to_theirs(rules: Iterable[Rule], ours: Tensors, heads: Heads) -> Tensors:
    """Build their tensors from ours, as the inverse of `to_ours`.

    Args:
        rules: The rules of the model. If two rules name the same tensor, the later one applies.
        ours: Our tensors. Each one is removed when it is used.
        heads: The numbers of attention heads.

    Raises:
        ValueError: If the other family has no counterpart of a tensor. The message names it.
    """
    by_name = {rule.ours: rule for rule in rules}
    if unmapped := sorted(ours.keys() - by_name.keys()):
        raise ValueError(f"The other family has no counterpart of the tensors {', '.join(unmapped)}.")
    theirs: Tensors = {}
    for name in counted_by(Progress("Converting the weights", len(ours), "weight"), list(ours)):
        rule = by_name[name]
        theirs.update(zip(rule.theirs, rule.layout.split(ours.pop(name), heads, len(rule.theirs)), strict=True))
    return theirs
