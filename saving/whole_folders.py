"""Folders and files that are there as a whole or not at all; folders never in place of anything but an older model."""

from __future__ import annotations

import filecmp
import itertools
import json
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .finite_weights import in_words, not_finite_in
from .model_files import is_unedited, model_files
from .module_list import MODULE_LIST, module_paths
from .scratch_folders import scratch_folder
from .staged_files import check_parents, files_in, replace_files

logger = logging.getLogger(__name__)

# Libraries read these first, to find out what a folder holds.
_POINTERS = frozenset({"config.json", MODULE_LIST})


def check_replaceable(output: Path, replace: bool, option: str, kept: Path | None = None) -> None:
    """Checks that a folder can be written, and that it is new, empty, or that of a model that may be replaced.

    Args:
        output: the folder to be written.
        replace: whether the user allows the model in it to be replaced.
        option: what the user says to allow that.
        kept: what must not be in `output`.

    Raises:
        FileExistsError: if the folder exists and may not be replaced.
        NotADirectoryError: if there is a file instead of a folder above it.
        PermissionError: if nothing may be written where it is to be.
    """
    output = _normalized(output)
    resolved = output.resolve()
    check_parents(output)
    there = next((parent for parent in output.parents if parent.exists()), output)
    try:
        # Only an attempt tells: file systems can be read-only, and root may write into most other places.
        with scratch_folder(there, _prefix(output)):
            pass
    except OSError as error:
        reason = getattr(error.__cause__, "strerror", None) or error
        raise PermissionError(f"{output} cannot be written: files cannot be made in {there} ({reason}).") from error
    if not (output.exists() or output.is_symlink()):
        return
    if kept is not None and resolved in (kept.resolve(), *kept.resolve().parents):
        raise FileExistsError(f"{output} holds {kept}, which this command reads; choose another folder.")
    if resolved in (Path.cwd(), *Path.cwd().parents):
        raise FileExistsError(f"{output} is the current folder or one above it; choose another folder.")
    if output.is_symlink() or os.path.ismount(output) or not output.is_dir():
        raise FileExistsError(f"{output} exists and is a file, a link or a mount point; choose another folder.")
    if not any(output.iterdir()):
        return
    if not _is_model(output):
        raise FileExistsError(f"{output} exists, and does not hold a saved model; choose another folder.")
    if (output / "adapter_config.json").exists():
        # Transformers would add it to whatever model is in the folder.
        raise FileExistsError(f"{output} holds an adapter of peft, adapter_config.json; move it away first.")
    if not replace:
        raise FileExistsError(f"{output} exists; choose another folder, or replace the model in it with {option}.")


def _is_model(folder: Path) -> bool:
    # An adapter of peft stands alone.
    for name, field in (("config.json", "model_type"), ("adapter/adapter_config.json", "peft_type")):
        try:
            if field in json.loads((folder / name).read_text(encoding="utf-8")):
                return True
        except (OSError, ValueError, TypeError):
            continue
    return False


def _normalized(path: Path) -> Path:
    """Without `..`, whose meaning changes when folders before it are made."""
    return Path(os.path.abspath(path))


def _prefix(output: Path) -> str:
    return f".{output.name}-"


@contextmanager
def written_whole(output: Path, replace: bool, option: str) -> Iterator[Path]:
    """Yields a new folder to write into. It becomes `output` at the end, if nothing went wrong until then.

    If there is a model in `output`, its files are removed, and all others stay; a warning names them. A new file does
    not take the place of one of these either, but gets `.new` into its name. What `check_replaceable` says before the
    work is checked again after it, since something may have appeared there.

    Raises:
        FileExistsError: if the folder exists and may not be replaced, or not by weights that are NaN or infinite.
        OSError: if nothing can be written beside `output`.
    """
    output = _normalized(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    # Beside the output, so that the finished folder only has to be renamed.
    with scratch_folder(output.parent, _prefix(output)) as scratch:
        written = scratch / "written"
        written.mkdir()
        yield written
        check_replaceable(output, replace, option)
        if output.exists():
            _replace_model(output, written, scratch / "replaced")
        else:
            written.rename(output)


def _replace_model(output: Path, written: Path, replaced: Path) -> None:
    modules = [path for path in module_paths(written) if path]
    outdated = model_files(output, modules)
    if any(name.endswith((".safetensors", ".bin")) for name in outdated) and (names := not_finite_in(written)):
        raise FileExistsError(
            f"The new weights are NaN or infinite in {in_words(names)}, and would replace those in {output}; choose "
            "another folder."
        )
    folders = {output, *((output / name).parent for name in outdated)}
    others = sorted(
        path.relative_to(output).as_posix() for folder in folders for path in folder.iterdir() if path not in folders
    )
    _give_way(output, written, outdated, modules)
    new = files_in(written)
    if not new:
        raise FileNotFoundError(f"Nothing was written to replace {output} with.")
    replace_files(output, written, replaced, new, outdated, _POINTERS)
    for folder in folders - {output}:
        with suppress(OSError):  # It holds something else.
            folder.rmdir()
    if left := [name for name in others if name not in outdated]:
        logger.warning(f"{output} still holds what was not part of the older model: {', '.join(left)}.")


def _give_way(output: Path, written: Path, outdated: set[str], modules: list[str]) -> None:
    """Renames new files that would take the place of files that stay."""
    for name in sorted(files_in(written) - outdated):
        there, top = output / name, name.partition("/")[0]
        if top != name and (output / top).is_symlink():
            raise FileExistsError(f"{output / top} is a link, in the place of a folder that is to be saved.")
        if not (written / name).exists() or not os.path.lexists(there):  # Its folder was renamed, or it has a place.
            continue
        if there.is_file() and filecmp.cmp(there, written / name, shallow=False):
            continue
        # What is in one folder belongs together, but modules are found by the names of their folders.
        moved = Path(name if top in modules else top)
        aside = _free_name(output, moved)
        (written / moved).rename(written / aside)
        logger.warning(f"{output / moved} is not as this package wrote it, and stays; the new one is {aside}.")


def _free_name(output: Path, name: Path) -> Path:
    """`README.new.md` for `README.md`, or another one if there is something that would be lost."""
    names = (name.with_name(f"{name.stem}.new{number or ''}{name.suffix}") for number in itertools.count())
    return next(new for new in names if not os.path.lexists(output / new) or is_unedited(output / new))


def write_whole(file: Path, parts: Iterable[str]) -> None:
    """Writes a text file aside, and renames it when all of it is there."""
    aside = file.with_name(f"{file.name}.part")
    with aside.open("w", encoding="utf-8") as writer:
        writer.writelines(parts)
    os.replace(aside, file)
