"""Loads exported models, with the options that make them compute in float32 and on the threads of torch."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import cached_file

from ...modeling.text_encoding.recipe_files import HUB_OPTIONS
from .requirements import FORMATS, check_exporters, check_format

_HUB_OPTIONS = (*HUB_OPTIONS, "subfolder")


def load_exported(name: str | os.PathLike[str], **options: Any) -> tuple[Any, PreTrainedTokenizerBase]:
    """Load an exported model and its tokenizer.

    Args:
        name: A folder or a Hub id.
        **options: Arguments of `transformers.exporters.ExportedModel.from_pretrained`.

    Raises:
        MissingLibraryError: If the runtime is not installed.
        OSError: If there is no exported model, or a file is missing.
        ValueError: If a file cannot be read, or the format is not supported, or can run code and is not trusted.
    """
    check_exporters("an exported model")
    from transformers.exporters.base import EXPORT_MANIFEST_FILE

    hub = hub_options(options)
    if os.path.isdir(name) and not Path(name, options.get("subfolder") or "", EXPORT_MANIFEST_FILE).is_file():
        raise FileNotFoundError(
            f"{name} is not an exported model: it has no {EXPORT_MANIFEST_FILE}. Run `sequence-encoder export` first."
        )
    manifest = Path(cast(str, cached_file(os.fspath(name), EXPORT_MANIFEST_FILE, **hub)))
    backend = _backend_of(manifest)
    found = [to for to, each in FORMATS.items() if each.backend == backend]
    if not found:
        raise ValueError(f"{name} must be exported to one of {', '.join(map(repr, FORMATS))}, and is a {backend!r}.")
    # Folders for transformers.js, which have the same backend as those for ONNX, have no manifest.
    to = found[0]
    check_format(to)
    if FORMATS[to].runs_code and not options.get("trust_remote_code"):
        raise ValueError(
            f"{name} is {FORMATS[to].title}, which can run any code when it is loaded. If you trust its author, pass "
            "trust_remote_code=True (--trust_remote_code to `embed`, `predict` and `extract`)."
        )
    for key, value in runtime_options(to).items():
        given = options.get(key)
        options[key] = {**value, **(given or {})} if isinstance(value, dict) else given or value
    try:
        exported = open_exported(name, **options)
    except (ImportError, OSError, ValueError):
        raise
    except Exception as error:  # Each runtime has its own.
        raise ValueError(f"The exported model in {name} cannot be loaded: {type(error).__name__}: {error}") from error
    if exported.config is None:
        raise ValueError(f"The exported model in {name} has no config.json.")
    return exported, AutoTokenizer.from_pretrained(os.fspath(name), **hub)


def _backend_of(manifest: Path) -> str:
    try:
        return str(dict(json.loads(manifest.read_text(encoding="utf-8"))).get("export_format"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{manifest} must be the JSON object that `export` writes: {error}") from error


def open_exported(name: str | os.PathLike[str], **options: Any) -> Any:
    """Return an `ExportedModel` of transformers.

    Args:
        name: A folder or a Hub id.
        **options: Arguments of its `from_pretrained`.
    """
    from transformers.exporters import ExportedModel

    with warnings.catch_warnings():
        # Transformers' own use of torch, for torch programs.
        warnings.filterwarnings("ignore", "`treespec.children_specs` is deprecated", FutureWarning)
        return ExportedModel.from_pretrained(os.fspath(name), **options)


def runtime_options(to: str) -> dict[str, Any]:
    """Return the options with which a runtime computes in float32, on as many threads as torch.

    Without them, runtimes start a thread for each core of the machine, also in a container with fewer.

    Args:
        to: The format. Torch programs need no options.
    """
    threads = torch.get_num_threads()
    if to == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        return {"session_options": options}
    if to == "openvino":
        # OpenVINO otherwise computes in bfloat16 if the processor has instructions for it.
        return {"config": {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}}
    return {}


def hub_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return those options that say how to download files from the Hub."""
    return {key: value for key, value in options.items() if key in _HUB_OPTIONS}
