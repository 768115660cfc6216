"""Writes several files into a folder atomically: all of them appear or none. Other files are kept."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .scratch_folders import locked_folder, scratch_folder


@contextmanager
def staged(folder: str | os.PathLike[str], outdated: Callable[[str, set[str]], bool]) -> Iterator[Path]:
    """Yield a folder to write into. At the end, its files move into `folder` and replace files of the same names.

    Writing can be slow and may fail, but all files are complete before any of them moves. Moving only renames them, and
    a failed move is undone. If two processes save at the same time, one moves its files after the other.

    Args:
        folder: The folder for the files, which is created if it does not exist.
        outdated: A predicate that takes the name of a file in `folder` and the names of all new files, and returns
            whether to remove the file.

    Raises:
        FileExistsError: If `folder` is a file or a broken link, or has a folder with the name of a new file.
        OSError: If the folder is not writable.
    """
    folder = Path(folder)
    make_folder(folder)
    # The scratch folder is inside `folder`, so it is on the same disk and files can be renamed. If a process is killed
    # and leaves it behind, `Trainer` does not push it, because its name starts with an underscore.
    with scratch_folder(folder, "_saving-") as scratch:
        new = scratch / "new"
        new.mkdir()
        yield new
        restore_usual_modes(new)
        names = files_in(new)
        with locked_folder(folder.absolute().parent):
            to_remove = {path.name for path in folder.iterdir() if path.is_file() and outdated(path.name, names)}
            replace_files(folder, new, scratch / "old", names, to_remove)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, unless it exists.

    Raises:
        FileExistsError: If the path is a file or a broken link.
        NotADirectoryError: If one of its parents is a file.
        OSError: If the folder cannot be created.
    """
    if folder.is_symlink() and not folder.exists():
        raise FileExistsError(f"{folder} is a link to {os.readlink(folder)}, which does not exist.")
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; save_pretrained needs a folder.")
    check_parents(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"Cannot create this folder: {error.strerror}", str(folder)) from error


def check_parents(path: Path) -> None:
    """Check that the closest existing parent of a path is a folder.

    Raises:
        NotADirectoryError: If it is a file or a broken link.
    """
    for parent in path.absolute().parents:
        if parent.is_dir():
            return
        if parent.exists() or parent.is_symlink():
            raise NotADirectoryError(f"{path} cannot be written: {parent} is not a folder.")


def restore_usual_modes(folder: Path) -> None:
    """Let everyone read the files in a new folder who may read the folder.

    safetensors creates private files, which a server that runs as another user cannot read.
    """
    usual = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(stat.S_IMODE(path.stat().st_mode) | usual)


def files_in(folder: Path) -> set[str]:
    """Return all files in a folder and its subfolders, as paths relative to the folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def replace_files(
    folder: Path, new: Path, old: Path, names: set[str], to_remove: set[str], pointers: frozenset[str] = frozenset()
) -> None:
    """Move files into a folder on the same disk and remove outdated files there. If any step fails, undo all of them.

    Args:
        folder: The folder to move the files into.
        new: The folder that they are in.
        old: A folder for backups of replaced and removed files. It must not exist.
        names: The paths of the files, relative to `new` and then to `folder`.
        to_remove: The paths of outdated files in `folder`.
        pointers: The `names` through which libraries find the other files. Old pointers are removed first and new ones
            appear last, so that a folder never loads as a mixture of two models if the process is killed.

    Raises:
        FileExistsError: If `folder` has a folder with the name of a new file.
        OSError: If a file cannot be moved.
    """
    to_remove = to_remove - names
    for name in sorted(names):
        if (folder / name).is_dir():
            raise FileExistsError(f"{folder / name} is a folder, but a file must be saved there.")
    # The index of sharded weights is also a pointer: loading reports a missing index, but not shards of two models.
    pointers = pointers & names | {name for name in names if name.endswith(".index.json")}
    first, last = [*sorted(pointers), *sorted(to_remove)], [*sorted(names - pointers), *sorted(pointers)]
    kept, placed = [], []
    try:
        for name in dict.fromkeys([*first, *last]):
            if _back_up(folder / name, old / name):
                kept.append(name)
            if name in first:
                (folder / name).unlink(missing_ok=True)
        for name in last:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if name in kept:
                shutil.copymode(old / name, new / name)
            (new / name).replace(folder / name)
            placed.append(name)
    except BaseException:
        for name in placed:
            (folder / name).unlink(missing_ok=True)
        for name in kept:
            (old / name).replace(folder / name)
        raise


def _back_up(path: Path, place: Path) -> bool:
    """Back up a file by a hard link, or by moving it if the file system has no links. Return whether it existed."""
    if not path.is_file():
        return False
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, place)
    except FileNotFoundError:
        return False  # Another process has just removed it.
    except OSError:
        path.rename(place)
    return True
