"""Groups of layers that share their weights (Lan et al., 2020)."""

from collections.abc import Sequence


def group_of_each_layer(num_hidden_layers: int, num_hidden_groups: int | None) -> list[int]:
    """Return the index of the group of each layer.

    Args:
        num_hidden_layers: The number of layers.
        num_hidden_groups: The number of groups; None if each layer is its own group.
    """
    if num_hidden_groups is None:
        return list(range(num_hidden_layers))
    # The expression of transformers' ALBERT. If the groups have different sizes, its rounding decides where they end.
    return [int(index / (num_hidden_layers / num_hidden_groups)) for index in range(num_hidden_layers)]


def check_number_of_groups(num_hidden_layers: int, num_hidden_groups: int | None) -> None:
    """Check that each group has a layer.

    Raises:
        ValueError: If there are fewer groups than 1 or more than layers.
    """
    if num_hidden_groups is not None and not 1 <= num_hidden_groups <= num_hidden_layers:
        raise ValueError(
            f"num_hidden_groups must be from 1 to num_hidden_layers={num_hidden_layers}, or None, got "
            f"{num_hidden_groups}."
        )


def check_types_in_groups(layer_types: Sequence[str], groups: Sequence[int]) -> None:
    """Check that layers with the same weights have the same type.

    Args:
        layer_types: The type of each layer.
        groups: The group of each layer.

    Raises:
        ValueError: If a group has layers of several types.
    """
    for index in range(1, len(groups)):
        before, here = layer_types[index - 1 : index + 1]
        if groups[index] == groups[index - 1] and before != here:
            raise ValueError(
                f"layer_types has {before!r} for layer {index - 1} and {here!r} for layer {index}, which share their "
                f"weights; pass one type for each of the {groups[-1] + 1} groups of num_hidden_groups."
            )
