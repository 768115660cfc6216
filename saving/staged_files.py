"""Files that appear in a folder together, or not at all, among others that stay."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .scratch_folders import scratch_folder


@contextmanager
def staged(folder: str | os.PathLike[str], outdated: Callable[[str, set[str]], bool]) -> Iterator[Path]:
    """Gives a folder to write into. At the end its files go into `folder`, in place of those of the same names.

    What can fail and takes long, writing, is over by then; what is left is to rename, one file after the other. If that
    fails, it is undone. Two processes may do so at once: each file is then that of one of them.

    Args:
        folder: made if it is not there.
        outdated: says by its name, and those of all new files, whether a file of `folder` is to go.

    Raises:
        FileExistsError: if `folder` is a file or a broken link, or a new file would take the place of a folder.
        OSError: if nothing can be written there.
    """
    folder = Path(folder)
    make_folder(folder)
    # Inside the folder: surely on its disk, so that files only have to be renamed. `Trainer` pushes nothing that begins
    # with an underscore, should a process be killed and leave this behind.
    with scratch_folder(folder, "_saving-") as scratch:
        new = scratch / "new"
        new.mkdir()
        yield new
        names = files_in(new)
        goes = {path.name for path in folder.iterdir() if path.is_file() and outdated(path.name, names)}
        replace_files(folder, new, scratch / "old", names, goes)


def make_folder(folder: Path) -> None:
    """Makes a folder, and those above it, unless it exists.

    Raises:
        FileExistsError: if there is a file or a broken link instead.
        NotADirectoryError: if there is a file instead of a folder above it.
        OSError: if it cannot be made.
    """
    if folder.is_symlink() and not folder.exists():
        raise FileExistsError(f"{folder} is a link to {os.readlink(folder)}, which does not exist.")
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; save_pretrained needs a folder.")
    check_parents(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"This folder cannot be made: {error.strerror}", str(folder)) from error


def check_parents(path: Path) -> None:
    """Checks that what stands above a path can hold it.

    Raises:
        NotADirectoryError: if it is a file or a broken link.
    """
    for parent in path.absolute().parents:
        if parent.is_dir():
            return
        if parent.exists() or parent.is_symlink():
            raise NotADirectoryError(f"{path} cannot be written: {parent} is not a folder.")


def files_in(folder: Path) -> set[str]:
    """The files of a folder and those below, by their paths in it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def replace_files(
    folder: Path, new: Path, old: Path, names: set[str], goes: set[str], pointers: frozenset[str] = frozenset()
) -> None:
    """Moves files from one folder into another on the same disk, and removes outdated ones there: all of it or nothing.

    Args:
        folder: where they go.
        new: where they are.
        old: a folder that does not exist yet, to keep what they replace until all is done.
        names: their paths in `new`, which they keep.
        goes: paths in `folder` of files that are removed.
        pointers: those of `names` by which the others are found. They go first and come last, so that a process that
            is killed in between does not leave a mixture that loads.

    Raises:
        FileExistsError: if a file would take the place of a folder.
        OSError: if one of them cannot be moved.
    """
    goes = goes - names
    for name in sorted(names):
        if (folder / name).is_dir():
            raise FileExistsError(f"{folder / name} is a folder, in the place of a file that is to be saved.")
    # What names the parts of split weights is the first to go and the last to come: should the process be killed in
    # between, that there are no weights is seen when they are loaded; that parts do not belong together would not be.
    pointers = pointers & names | {name for name in names if name.endswith(".index.json")}
    first, last = [*sorted(pointers), *sorted(goes)], [*sorted(names - pointers), *sorted(pointers)]
    kept, placed = [], []
    try:
        for name in dict.fromkeys([*first, *last]):
            if _keep(folder / name, old / name):
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


def _keep(path: Path, place: Path) -> bool:
    """Makes an old file appear in another place as well, if there is one; some file systems can only move it there."""
    if not path.is_file():
        return False
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, place)
    except FileNotFoundError:
        return False  # Another process was faster.
    except OSError:
        path.rename(place)
    return True
