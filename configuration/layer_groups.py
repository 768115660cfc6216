"""The number, the groups and the types of layers. Layers of a group share their weights (Lan et al., 2020)."""

from collections.abc import Sequence
from typing import Any


def group_of_each_layer(num_hidden_layers: int, num_hidden_groups: int | None) -> list[int]:
    """Return the index of the group of each layer. Without groups, each layer is its own."""
    if num_hidden_groups is None:
        return list(range(num_hidden_layers))
    # The expression of transformers' ALBERT. If the groups have different sizes, its rounding decides where they end.
    return [int(index / (num_hidden_layers / num_hidden_groups)) for index in range(num_hidden_layers)]


def check_number_of_groups(num_hidden_layers: int, num_hidden_groups: int | None) -> None:
    """Check that each group has a layer."""
    if num_hidden_groups is not None and not 1 <= num_hidden_groups <= num_hidden_layers:
        raise ValueError(
            f"num_hidden_groups must be from 1 to num_hidden_layers={num_hidden_layers}, or None, got "
            f"{num_hidden_groups}."
        )


def check_types_in_groups(layer_types: Sequence[str], groups: Sequence[int]) -> None:
    """Check that layers with the same weights have the same type."""
    for index in range(1, len(groups)):
        before, here = layer_types[index - 1 : index + 1]
        if groups[index] == groups[index - 1] and before != here:
            raise ValueError(
                f"layer_types has {before!r} for layer {index - 1} and {here!r} for layer {index}, which share their "
                f"weights; pass one type for each of the {groups[-1] + 1} groups of num_hidden_groups."
            )


def with_overrides(given: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Return the given fields with overrides applied.

    If `num_hidden_layers` is overridden, the given layer types are cut or their pattern is repeated to fit.
    """
    depth, layer_types = overrides.get("num_hidden_layers"), given.get("layer_types")
    if layer_types == []:
        given = {**given, "layer_types": None}
    elif layer_types and isinstance(depth, int):
        period = next((n for n in range(1, len(layer_types)) if layer_types[n:] == layer_types[:-n]), len(layer_types))
        given = {**given, "layer_types": layer_types[: min(period, depth)]}
    return {**given, **overrides}
