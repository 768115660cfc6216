"""Model cards: what they say of a model, and the sections that commands add to them."""

from .card import Training, model_card

__all__ = ["Training", "model_card"]
