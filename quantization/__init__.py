"""Quantization of models to eight bits: calibration, the choice of layers, and the command."""

from __future__ import annotations

from ..command_line.lazy_exports import lazy_exports

_MODULES = {
    "QuantizationReport": "quantizing",
    "quantize": "quantizing",
}
__all__ = [*_MODULES]
__getattr__ = lazy_exports(__name__, _MODULES)
