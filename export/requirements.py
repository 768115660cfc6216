"""The formats that a model can be exported to, and the libraries that each of them needs."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ..command_line.extras import MissingLibraryError, require

# By the name of the format in transformers.
LIBRARIES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",)}
FORMAT_NAMES = {"onnx": "ONNX", "openvino": "OpenVINO"}
RUNTIME_NAMES = {"onnx": "ONNX Runtime", "openvino": "OpenVINO"}


def check_format(to: str) -> None:
    """Check that a format exists, and that its libraries are installed, without importing them.

    Args:
        to: The name of the format.

    Raises:
        ValueError: If there is no such format.
        MissingLibraryError: If a library is missing, or transformers is too old.
    """
    if to not in LIBRARIES:
        raise ValueError(f"to must be one of {', '.join(map(repr, LIBRARIES))}, got {to!r}.")
    check_exporters(f"export to {FORMAT_NAMES[to]}")
    require(f"export to {FORMAT_NAMES[to]}", *LIBRARIES[to], extra="export")


def check_exporters(purpose: str) -> None:
    """Check that the installed transformers can save and run exported models, without importing it.

    Args:
        purpose: What needs them, for the error.

    Raises:
        MissingLibraryError: If it cannot.
    """
    spec = find_spec("transformers")
    places = [] if spec is None else spec.submodule_search_locations or []
    if not any(Path(place, "exporters", "runners").is_dir() for place in places):
        raise MissingLibraryError(
            f"{purpose} needs transformers 5.23 or newer, because older releases cannot run exported models. "
            "Install with: pip install 'transformers>=5.23,<6' 'torch>=2.11'"
        )
