"""Nests the parameters of rotary positions by layer type, and checks them."""

import math
from collections.abc import Sequence
from typing import Any

_LAYER_TYPES = ("full_attention", "sliding_attention")
# The supported types, with the numbers that each requires. `dynamic` and `longrope` rescale with the longest text of a
# batch, so the output for a text would depend on the other texts.
_ROPE_TYPES: dict[str, tuple[str, ...]] = {
    "default": ("rope_theta",),
    "linear": ("rope_theta", "factor"),
    "llama3": ("rope_theta", "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("rope_theta", "factor", "original_max_position_embeddings"),
}
_NOT_NUMBERS = ("rope_type", "type", "truncate")


def nest_by_layer_type(given: dict[str, Any], layer_types: Sequence[str], default_theta: float) -> dict[str, Any]:
    """Return the parameters for each of the layer types.

    Args:
        given: Parameters for all layers, parameters nested by layer type, or both. Nested parameters override common
            ones.
        layer_types: The layer types that the model has. Parameters for others are left out.
        default_theta: The default of `rope_theta`.

    Raises:
        ValueError: If a layer type does not exist, or its parameters are not a dict.
    """
    nested = {name: value for name, value in given.items() if isinstance(value, dict) or name in _LAYER_TYPES}
    common = {name: value for name, value in given.items() if name not in nested}
    if unused := sorted(set(nested) - set(_LAYER_TYPES)):
        raise ValueError(f"rope_parameters is nested under {unused}; the layer types are {' and '.join(_LAYER_TYPES)}.")
    for name, value in nested.items():
        if not isinstance(value, dict):
            raise ValueError(f"rope_parameters[{name!r}] must be a dict, got {value!r}.")
    return {name: {"rope_theta": default_theta, **common, **nested.get(name, {})} for name in sorted(set(layer_types))}


def check_rope_parameters(rope_parameters: dict[str, Any] | None, layer_types: Sequence[str]) -> None:
    """Check that each layer type has parameters of a supported type, with all required numbers."""
    given = rope_parameters or {}
    if missing := sorted(set(layer_types) - set(given)):
        raise ValueError(
            "position_embedding='rotary' needs rope_parameters for every layer type of the model; "
            f"{', '.join(missing)} is missing in rope_parameters={rope_parameters}."
        )
    for layer_type, parameters in given.items():
        where = f"rope_parameters[{layer_type!r}]"
        if not isinstance(parameters, dict):
            raise ValueError(f"{where} must be a dict, got {parameters!r}.")
        rope_type = parameters.get("rope_type")
        if rope_type not in list(_ROPE_TYPES):
            raise ValueError(
                f"{where}['rope_type']={rope_type!r} is not supported; choose one of {', '.join(_ROPE_TYPES)}."
            )
        if "partial_rotary_factor" in parameters:
            raise ValueError(f"{where}: partial_rotary_factor is not supported.")
        for name in _ROPE_TYPES[rope_type]:
            if name not in parameters:
                raise ValueError(
                    f"{where}[{name!r}] is missing; rope_type={rope_type!r} needs it as a positive number."
                )
        for name, value in parameters.items():
            optional = name not in _ROPE_TYPES[rope_type]
            if name not in _NOT_NUMBERS and not (_is_positive(value) or (optional and value is None)):
                raise ValueError(f"{where}[{name!r}] must be a positive number, got {value!r}.")


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
