"""Serves models over HTTP, in the protocols of OpenAI and of text-embeddings-inference."""

from __future__ import annotations

from ..command_line.lazy_exports import lazy_exports

_MODULES = {
    "Limits": "limits",
    "create_app": "app",
    "load_served_model": "loading",
}
__all__ = [*_MODULES]
__getattr__ = lazy_exports(__name__, _MODULES)
