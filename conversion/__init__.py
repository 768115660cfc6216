"""Other checkpoints to ours and back, one file a family; `convert` is the way in."""

from .convert import convert

__all__ = ["convert"]
