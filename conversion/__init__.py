"""Conversion of checkpoints between other model families and SequenceEncoder.

Each family has one module. `convert` is the entry point.
"""

from ..command_line.lazy_exports import lazy_exports

__all__ = ["convert"]
__getattr__ = lazy_exports(__name__, {"convert": "converting"})
