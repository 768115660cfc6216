"""Writes folders and files atomically. A folder may replace an older model, but nothing else."""

from __future__ import annotations

import filecmp
import itertools
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .card_mark import is_unedited
from .model_files import model_files
from .module_list import MODULE_LIST, module_paths
from .scratch_folders import locked_folder, scratch_folder
from .staged_files import check_parents, files_in, replace_files, restore_usual_modes

logger = logging.getLogger(__name__)

# Libraries read these first to find out what a folder contains.
_POINTERS = frozenset({"config.json", MODULE_LIST})


def check_replaceable(output: Path, replace: bool, option: str, kept: Path | None = None) -> None:
    """Check that a folder is writable, and that it is new, empty, or contains a model that may be replaced.

    Args:
        output: The folder to write.
        replace: Whether the user allows replacing a model in it.
        option: The option by which the user allows that, for the error.
        kept: A path that must not be inside `output`.

    Raises:
        FileExistsError: If the folder exists and must not be replaced.
        NotADirectoryError: If one of its parents is a file.
        PermissionError: If its parent is not writable.
    """
    output = _normalized(output)
    resolved = output.resolve()
    check_writable(output)
    if not (output.exists() or output.is_symlink()):
        return
    if kept is not None and resolved in (kept.resolve(), *kept.resolve().parents):
        raise FileExistsError(f"{output} contains {kept}, which this command reads; choose another folder.")
    if resolved in (Path.cwd(), *Path.cwd().parents):
        raise FileExistsError(f"{output} is the current folder or one above it; choose another folder.")
    if output.is_symlink() or os.path.ismount(output) or not output.is_dir():
        raise FileExistsError(f"{output} exists and is a file, a link or a mount point; choose another folder.")
    if not any(output.iterdir()):
        return
    if not _is_model(output):
        raise FileExistsError(f"{output} exists and does not contain a saved model; choose another folder.")
    if (output / "adapter_config.json").exists():
        # Transformers would add it to any model in the folder.
        raise FileExistsError(f"{output} contains a peft adapter (adapter_config.json); move it away first.")
    if not replace:
        raise FileExistsError(f"{output} exists; choose another folder, or replace the model in it with {option}.")


def check_writable(path: Path) -> None:
    """Check that a file or a folder can be created, with the folders above it that do not exist.

    Raises:
        NotADirectoryError: If a path above it is a file.
        PermissionError: If the folder that it would be created in is not writable.
    """
    path = _normalized(path)
    check_parents(path)
    there = next((parent for parent in path.parents if parent.exists()), path)
    try:
        # Only an attempt is conclusive: file systems can be read-only, and permissions do not restrict root.
        with scratch_folder(there, _prefix(path)):
            pass
    except OSError as error:
        reason = getattr(error.__cause__, "strerror", None) or error
        raise PermissionError(f"{path} cannot be written: {there} is not writable ({reason}).") from error


def _is_model(folder: Path) -> bool:
    # A folder with a peft adapter that `adapt` trained does not contain a config.json.
    for name, field in (("config.json", "model_type"), ("adapter/adapter_config.json", "peft_type")):
        try:
            if field in json.loads((folder / name).read_text(encoding="utf-8")):
                return True
        except (OSError, ValueError, TypeError):
            continue
    return False


def _normalized(path: Path) -> Path:
    """Return a path without `..`, which could resolve differently once parent folders have been created."""
    return Path(os.path.abspath(path))


def _prefix(output: Path) -> str:
    return f".{output.name}-"


@contextmanager
def atomic_folder(output: Path, replace: bool, option: str) -> Iterator[Path]:
    """Yield a new folder to write into. It becomes `output` at the end, unless an exception occurs.

    If `output` contains a model, the new files replace those of the model. All other files are kept, and a warning
    lists them. If a new file has the name of a kept file, `.new` is added to its name. `check_replaceable` runs again
    at the end, since the folder may have changed in the meantime.

    Args:
        output: The folder to write.
        replace: Whether the user allows replacing a model in it.
        option: The option by which the user allows that, for the error.

    Raises:
        FileExistsError: If the folder exists and must not be replaced, or the new weights are NaN or infinite and would
            replace others.
        OSError: If the parent of `output` is not writable.
    """
    output = _normalized(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    # Next to the output, so that the finished folder only has to be renamed.
    with scratch_folder(output.parent, _prefix(output)) as scratch:
        written = scratch / "written"
        written.mkdir()
        yield written
        restore_usual_modes(written)
        with locked_folder(output.parent):
            check_replaceable(output, replace, option)
            if output.exists():
                _replace_model(output, written, scratch / "replaced")
            else:
                written.rename(output)


def _replace_model(output: Path, written: Path, replaced: Path) -> None:
    # It imports torch, which commands without a model do not need.
    from .finite_weights import find_non_finite_in, summarize_names

    modules = [path for path in module_paths(written) if path]
    outdated = model_files(output, modules)
    if any(name.endswith((".safetensors", ".bin")) for name in outdated) and (names := find_non_finite_in(written)):
        raise FileExistsError(
            f"The new weights are NaN or infinite in {summarize_names(names)}, and would replace those in {output}; "
            "choose another folder."
        )
    folders = {output, *((output / name).parent for name in outdated)}
    others = sorted(
        path.relative_to(output).as_posix() for folder in folders for path in folder.iterdir() if path not in folders
    )
    _rename_conflicting(output, written, outdated, modules)
    new = files_in(written)
    if not new:
        raise FileNotFoundError(f"No new files were written to replace those in {output}.")
    replace_files(output, written, replaced, new, outdated, _POINTERS)
    for folder in folders - {output}:
        with suppress(OSError):  # The folder is not empty.
            folder.rmdir()
    if left := [name for name in others if name not in outdated]:
        logger.warning(f"{output} still contains files that were not part of the older model: {', '.join(left)}.")


def _rename_conflicting(output: Path, written: Path, outdated: set[str], modules: list[str]) -> None:
    """Rename new files that have the name of a file that is kept."""
    for name in sorted(files_in(written) - outdated):
        there, top = output / name, name.partition("/")[0]
        if top != name and (output / top).is_symlink():
            raise FileExistsError(f"{output / top} is a link, but a folder must be saved there.")
        if not (written / name).exists() or not os.path.lexists(there):  # Its folder was renamed, or its name is free.
            continue
        if there.is_file() and filecmp.cmp(there, written / name, shallow=False):
            continue
        # The files of a subfolder belong together, so the whole subfolder is renamed, except for the folder of a
        # module, which libraries find by its name.
        moved = Path(name if top in modules else top)
        new_name = _unused_name(output, moved)
        (written / moved).rename(written / new_name)
        logger.warning(
            f"{output / moved} was not written by this package or was edited, so it is kept; the new one is {new_name}."
        )


def _unused_name(output: Path, name: Path) -> Path:
    """Return `README.new.md` for `README.md`, or a numbered name if that would overwrite someone's file."""
    names = (name.with_name(f"{name.stem}.new{number or ''}{name.suffix}") for number in itertools.count())
    return next(new for new in names if not os.path.lexists(output / new) or is_unedited(output / new))


def write_atomically(file: Path, parts: Iterable[str]) -> None:
    """Write a text file under a temporary name, and rename it when it is complete.

    It has the permissions of the file that it replaces.
    """
    temporary = file.with_name(f"{file.name}.part")
    try:
        with temporary.open("w", encoding="utf-8") as writer:
            writer.writelines(parts)
        if file.exists():
            shutil.copymode(file, temporary)
        os.replace(temporary, file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
