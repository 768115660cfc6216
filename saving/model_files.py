"""Finds the files of a folder that belong to a saved model: those that this package and its libraries write.

Most files are recognised by a name that only saved models use. Users may also have files with some of the names, such
as `README.md` or `results.json`. Such a file counts only if its content shows that this package wrote it. A model card
must also be unedited.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from .calibration_files import CALIBRATION_FILES, CALIBRATION_PICTURE
from .card_mark import is_unedited
from .code_bundle import BUNDLE_FILES, MARK, OLDER_FILES
from .custom_generate import CUSTOM_GENERATE, CUSTOM_GENERATE_MARK
from .module_list import MODULE_LIST, module_paths

# Files from which a tokenizer can be loaded.
VOCABULARIES = (
    *("tokenizer.json", "vocab.txt", "vocab.json", "bpe.codes"),
    *("tokenizer.model", "sentencepiece.bpe.model", "spiece.model", "spm.model"),
)
TOKENIZER_FILES = (
    *(*VOCABULARIES, "tokenizer_config.json", "merges.txt"),
    *("added_tokens.json", "special_tokens_map.json", "chat_template.jinja"),
)
# Describes an adapter that `adapt` trained. Other adapters do not have this file.
ADAPTER_RECORD = "adaptation.json"
# The configuration that transformers reads instead of a `config.json` for transformers.js that names this file. By its
# name, it is for transformers 4.0.0 and newer.
PYTHON_CONFIG = "config.4.0.0.json"

_NAMES = {
    *TOKENIZER_FILES,
    *("config.json", "generation_config.json", "training_args.bin", MODULE_LIST),
    PYTHON_CONFIG,
    "config_sentence_transformers.json",
    "distillation.json",
    *CALIBRATION_FILES,
    CALIBRATION_PICTURE,
    # The heads of BGE-M3 in the format of FlagEmbedding.
    *("sparse_linear.pt", "colbert_linear.pt"),
}
_PATTERNS = re.compile(
    r"(model|pytorch_model)(\.[\w-]+)?(-\d+-of-\d+)?\.(safetensors|bin)"
    r"|(model\.safetensors|pytorch_model\.bin)\.index(\.[\w-]+)?\.json"
    r"|sentence_\w+_config\.json"
)
_ADAPTER_NAMES = {"adapter_config.json", "adapter_model.safetensors", ADAPTER_RECORD}
# Written by `adapt`.
_BESIDE_RESULTS = ("results.json", "predictions.jsonl", "suspicious_labels.csv", "confusion_matrix.png")
# Those that contain the texts of users, who may not want to publish them.
FILES_WITH_TEXTS = {"predictions.jsonl", "suspicious_labels.csv"}
_OLDER_ENTRY = "sequence_encoder_auto_classes.py"
# Describes an exported model, and names its files.
_EXPORT = "export.json"
_BESIDE_EXPORTS = {".onnx": ".onnx.data", ".xml": ".bin"}
# The folder of the graphs that transformers.js reads, and the names of its files.
GRAPHS = "onnx"
_GRAPH = re.compile(r"model(_\w+)?\.onnx(_data)?")
_RESULTS = {"task", "tuning", "trained_parameters", "metrics"}


def model_files(folder: Path, modules: Iterable[str] = ()) -> set[str]:
    """Return the files of a folder that belong to the model in it, as paths relative to the folder.

    Args:
        folder: The folder of a saved model.
        modules: Subfolders of sentence-transformers modules, in addition to those in the folder's `modules.json`.
    """
    found = _known_files(folder) | _code(folder)
    for module in {*modules, *_modules(folder)}:
        found |= {f"{module}/{name}" for name in _known_files(folder / module)}
    if (folder / "adapter" / ADAPTER_RECORD).is_file():
        found |= {f"{part}/{name}" for part in ("adapter", "base") for name in _known_files(folder / part)}
        found |= {f"base/{name}" for name in _code(folder / "base")}
    found |= _exported(folder)
    found |= graph_files(folder)
    if _is_results(folder / "results.json"):
        found |= {name for name in _BESIDE_RESULTS if (folder / name).is_file()}
    return found


def graph_files(folder: Path) -> set[str]:
    """Return the graphs for transformers.js in a folder, as paths relative to the folder."""
    return {f"{GRAPHS}/{path.name}" for path in folder.glob(f"{GRAPHS}/*") if _GRAPH.fullmatch(path.name)}


def _known_files(folder: Path) -> set[str]:
    """Return the names of model files directly in a folder; none if it is a link, since they are in another folder."""
    if folder.is_symlink() or not folder.is_dir():
        return set()
    names = {path.name for path in folder.iterdir() if path.is_file() or path.is_symlink()}
    adapter = _ADAPTER_NAMES if ADAPTER_RECORD in names else set()
    cards = {"README.md"} if is_unedited(folder / "README.md") else set()
    return {name for name in names if name in _NAMES | adapter | cards or _PATTERNS.fullmatch(name)}


def _code(folder: Path) -> set[str]:
    """Return the paths of code files that this version or an earlier one saved with a model."""
    # The first file of an earlier version imports all others.
    named = re.findall(r"^\s*from \.(\w+) import", _text(folder / _OLDER_ENTRY), re.MULTILINE)
    older = {_OLDER_ENTRY, *(f"{stem}.py" for stem in named)}
    found = {name for name in (*BUNDLE_FILES, *OLDER_FILES) if MARK in _text(folder / name)}
    if CUSTOM_GENERATE_MARK in _text(folder / CUSTOM_GENERATE):
        found.add(CUSTOM_GENERATE)
    return found | {name for name in older if (folder / name).is_file()}


def _exported(folder: Path) -> set[str]:
    """Return the names of the files of an exported model, which `export.json` lists."""
    try:
        listed = json.loads((folder / _EXPORT).read_text(encoding="utf-8"))
        files = [Path(component["file"]) for component in listed["components"].values()]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return set()
    names = {_EXPORT, *(file.name for file in files)}
    names |= {file.stem + _BESIDE_EXPORTS.get(file.suffix, file.suffix) for file in files}
    return {name for name in names if (folder / name).is_file()}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _modules(folder: Path) -> list[str]:
    try:
        return [path for path in module_paths(folder) if path]
    except (OSError, ValueError):
        return []


def _is_results(path: Path) -> bool:
    try:
        return path.is_file() and json.loads(path.read_text(encoding="utf-8")).keys() >= _RESULTS
    except (OSError, ValueError, AttributeError):
        return False
