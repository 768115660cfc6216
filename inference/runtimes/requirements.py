"""The formats that a model can be exported to, and the libraries that each of them needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ...command_line.extras import MissingLibraryError, require


@dataclass(frozen=True)
class Format:
    """A format of exported models.

    Attributes:
        backend: Its name in transformers.
        title: Its name in sentences.
        runtime: The name of what runs it, in sentences.
        file: The file with the graph.
        weights: The file with the weights beside it, or None if the first file contains them.
        libraries: The libraries that it needs, without torch and transformers.
        runs_code: Whether files can run code when they are loaded.
        several_dtypes: Whether there can be several files with the graph, in several precisions.
    """

    backend: str
    title: str
    runtime: str
    file: str
    weights: str | None
    libraries: tuple[str, ...] = ()
    runs_code: bool = False
    several_dtypes: bool = False


FORMATS = {
    "onnx": Format(
        "onnx", "ONNX", "ONNX Runtime", "model.onnx", "model.onnx.data", ("onnx", "onnxscript", "onnxruntime")
    ),
    "openvino": Format("openvino", "OpenVINO", "OpenVINO", "openvino_model.xml", "openvino_model.bin", ("openvino",)),
    "transformers.js": Format(
        *("onnx", "ONNX for transformers.js", "ONNX Runtime", "onnx/model.onnx", None),
        ("onnx", "onnxscript", "onnxruntime"),
        several_dtypes=True,
    ),
    # Torch unpickles parts of the file, and evaluates expressions for sizes as Python code.
    "torch": Format("dynamo", "a torch program", "the exported program", "model.pt2", None, runs_code=True),
}


@dataclass(frozen=True)
class Layout:
    """A layout of the files for transformers.js, or of the tokens in the graph.

    Attributes:
        format: The format that has it.
        in_place: Whether the files are added to the folder of the model, beside its weights.
        padded: Whether the graph computes padding, with operations alone that WebGPU has.
    """

    format: str
    in_place: bool = False
    padded: bool = False


LAYOUTS = {
    "hub": Layout("onnx", in_place=True),
    "webgpu": Layout("transformers.js", padded=True),
}


def is_in_place(layout: str | None) -> bool:
    """Return whether a layout adds files to the folder of the model; None is the layout of the format."""
    return layout is not None and LAYOUTS[layout].in_place


def check_layout(layout: str | None, to: str, names: tuple[str, str] = ("layout", "to")) -> None:
    """Check that a layout exists, and that a format has it.

    Args:
        layout: The layout; None for that of the format.
        to: The format.
        names: The names of both arguments, for the error.

    Raises:
        ValueError: If not.
    """
    if layout is None:
        return
    if layout not in LAYOUTS:
        raise ValueError(f"{names[0]} must be one of {', '.join(LAYOUTS)}, got {layout!r}.")
    if to != (needed := LAYOUTS[layout].format):
        raise ValueError(f"{names[0]} {layout} needs {names[1]} {needed}, got {to}.")


@dataclass(frozen=True)
class Dtype:
    """A precision of files for transformers.js.

    Attributes:
        suffix: What follows `model` in the name of the file.
        least_cosine: The least cosine of an output to that of the model; None if outputs must be the same.
    """

    suffix: str
    least_cosine: float | None


# Browsers load q8 by default, and Node fp32.
DTYPES = {
    "fp32": Dtype("", None),
    "fp16": Dtype("_fp16", 0.999),
    "q8": Dtype("_quantized", 0.99),
    "q4": Dtype("_q4", 0.95),
}


def check_dtypes(dtypes: Sequence[str], name: str) -> None:
    """Check the names of precisions.

    Args:
        dtypes: The names.
        name: The name of the argument, for the error.

    Raises:
        ValueError: If a precision does not exist, or `dtypes` is empty.
    """
    wrong = [each for each in dtypes if each not in DTYPES]
    if wrong or not dtypes:
        raise ValueError(f"{name} must be some of {', '.join(DTYPES)}, got {', '.join(wrong) or 'none'}.")


def check_format(to: str) -> None:
    """Check that a format exists, and that its libraries are installed, without importing them.

    Args:
        to: The name of the format.

    Raises:
        ValueError: If there is no such format.
        MissingLibraryError: If a library is missing, or transformers is too old.
    """
    if to not in FORMATS:
        raise ValueError(f"to must be one of {', '.join(map(repr, FORMATS))}, got {to!r}.")
    purpose = f"export to {FORMATS[to].title}"
    check_exporters(purpose)
    require(purpose, *FORMATS[to].libraries, extra="export")


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
