"""Vectors in eight bits, which the page reads as arrays of JavaScript.

Shapes: N vectors, D channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np


def in_eight_bits(vectors: Iterable[np.ndarray[Any, Any]]) -> bytes:
    """Return the scale of each vector in float32, and then all vectors as integers from -127 to 127.

    Args:
        vectors: (N, D) in parts.
    """
    scales, numbers = [], []
    for part in vectors:
        scale = np.abs(part).max(1, keepdims=True).astype("<f4") / 127
        scales.append(scale.tobytes())
        numbers.append(np.rint(part / np.where(scale, scale, 1)).astype(np.int8).tobytes())
    return b"".join([*scales, *numbers])
