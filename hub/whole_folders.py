"""Folders and files that are there as a whole or not at all; folders never in place of anything but an older model."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from .module_list import MODULE_LIST, module_paths

# What saving a model, training it and sharing it leave in its folder.
PARTS_OF_A_MODEL = (
    *("*config.json", "config_sentence_transformers.json", "training_args.bin"),
    *("*.safetensors", "*.safetensors.index.json", "pytorch_model*"),
    *("tokenizer*", "vocab*", "merges.txt", "*_tokens*.json", "*.model", "*.codes", "chat_template.jinja"),
    *("README.md", "LICENSE*", ".gitattributes", "*.py", "__pycache__", MODULE_LIST),
    *("adapter", "adapter_*", "base", "results.json", "runs"),
    *("predictions.jsonl", "confusion_matrix.png"),
)


def check_replaceable(output: Path, replace: bool, option: str, kept: Path | None = None) -> None:
    """Checks that a folder can be written, and that nothing but an older model would go with the one there.

    Args:
        output: the folder to be written.
        replace: whether the user allows it to be replaced.
        option: what the user says to allow that.
        kept: what must not be in `output`.

    Raises:
        FileExistsError: if the folder exists and may not be replaced.
        PermissionError: if nothing may be written where it is to be.
    """
    output = _normalized(output)
    resolved = output.resolve()
    there = next(parent for parent in resolved.parents if parent.exists())
    if not os.access(there, os.W_OK):
        raise PermissionError(f"{output} cannot be written: {there} is read-only.")
    if not (output.exists() or output.is_symlink()):
        return
    if kept is not None and resolved in (kept.resolve(), *kept.resolve().parents):
        raise FileExistsError(f"{output} holds {kept}, which is to be read; choose another folder.")
    if resolved in (Path.cwd(), *Path.cwd().parents):
        raise FileExistsError(f"{output} is where you are; choose another folder.")
    if output.is_symlink() or os.path.ismount(output) or not output.is_dir():
        raise FileExistsError(f"{output} exists, and is no folder that can be replaced; choose another.")
    found = sorted(path.name for path in output.iterdir())
    if not found:
        return
    if not _is_model(output):
        raise FileExistsError(f"{output} exists, and is no folder of a saved model; choose another.")
    parts = (*PARTS_OF_A_MODEL, *_module_folders(output))
    others = [name for name in found if not any(fnmatchcase(name, part) for part in parts)]
    if others:
        raise FileExistsError(
            f"{output} exists, and has more in it than a saved model, such as {', '.join(others[:3])}; choose another "
            "folder, or move that away."
        )
    if not replace:
        raise FileExistsError(f"{output} exists; choose another folder, or replace all that is in it with {option}.")


def _is_model(folder: Path) -> bool:
    # An adapter of peft stands alone.
    for name, field in (("config.json", "model_type"), ("adapter/adapter_config.json", "peft_type")):
        try:
            if field in json.loads((folder / name).read_text(encoding="utf-8")):
                return True
        except (OSError, ValueError):
            continue
    return False


def _module_folders(folder: Path) -> list[str]:
    try:
        return [Path(path).parts[0] for path in module_paths(folder) if path]
    except (OSError, ValueError, TypeError):
        return []


def _normalized(path: Path) -> Path:
    """Without `..`, whose meaning changes when folders before it are made."""
    return Path(os.path.abspath(path))


@contextmanager
def written_whole(output: Path, replace: bool, option: str) -> Iterator[Path]:
    """Gives a new folder to write into. It takes the place of `output` at the end, if nothing went wrong until then.

    What `check_replaceable` says before the work is checked again after it: something may have come to be there.

    Raises:
        FileExistsError: if the folder exists and may not be replaced.
        OSError: if nothing can be written beside `output`.
    """
    output = _normalized(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    # Beside the output, so that the finished folder only has to be renamed.
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as scratch:
        written, replaced = Path(scratch, "written"), Path(scratch, "replaced")
        written.mkdir()
        yield written
        check_replaceable(output, replace, option)
        if output.exists():
            output.rename(replaced)
        try:
            written.rename(output)
        except BaseException:
            if replaced.exists():
                replaced.rename(output)
            raise


def write_whole(file: Path, parts: Iterable[str]) -> None:
    """Writes a text file aside, and renames it when all of it is there."""
    aside = file.with_name(f"{file.name}.part")
    with aside.open("w", encoding="utf-8") as writer:
        writer.writelines(parts)
    os.replace(aside, file)
