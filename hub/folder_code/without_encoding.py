"""What encoders whose model has a head for a task do where others turn texts into vectors."""

from typing import Any


class TextEncodingMixin:
    """Mixin of the encoder, which has no method `encode`."""


def recipe_of(model: Any) -> None:
    """Return that an encoder has no recipe by which texts become vectors."""
