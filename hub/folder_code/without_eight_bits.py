"""What models that are not in eight bits do where those in eight bits have other layers."""

from typing import Any


class QuantizedLayersMixin:
    """Mixin of models, none of which is in eight bits."""


def eight_bit_network(*network: Any) -> None:
    """Return that no network is in eight bits."""
