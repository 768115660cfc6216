"""Export of models to the formats of other runtimes, and the use of exported models."""

from __future__ import annotations

from ..command_line.lazy_exports import lazy_exports

_MODULES = {
    "ExportCheck": "comparison",
    "ExportedEncoder": "exported_encoder",
    "export": "exporting",
    "exported_pipeline": "pipelines",
    "to_jax": "jax_function",
}
__all__ = [*_MODULES]
__getattr__ = lazy_exports(__name__, _MODULES)
