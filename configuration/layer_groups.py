"""The groups of layers, which share their weights (Lan et al., 2020), and the types of fewer or more layers."""

from typing import Any


def group_of_each_layer(num_hidden_layers: int, num_hidden_groups: int | None) -> list[int]:
    """Return the index of the group of each layer. Without groups, each layer is its own."""
    if num_hidden_groups is None:
        return list(range(num_hidden_layers))
    # The expression of transformers' ALBERT. If the groups have different sizes, its rounding decides where they end.
    return [int(index / (num_hidden_layers / num_hidden_groups)) for index in range(num_hidden_layers)]


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
