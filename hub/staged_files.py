"""Files that appear in a folder together, or not at all, among others that stay."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def staged(folder: str | os.PathLike[str], outdated: Callable[[str, set[str]], bool]) -> Iterator[Path]:
    """Gives a hidden folder to write into. At the end its files go into `folder`, in place of those of the same names.

    What can fail and take long, writing, is over by then: what is left is to rename. If that fails, it is undone.

    Args:
        folder: made if it is not there.
        outdated: says by its name, and those of all new files, whether a file of `folder` is to go.

    Raises:
        FileExistsError: if `folder` is a file, or a new file would take the place of a folder.
        OSError: if nothing can be written there.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; save_pretrained needs a folder.")
    folder.mkdir(parents=True, exist_ok=True)
    # Inside the folder: surely on its disk, so that files only have to be renamed.
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as scratch:
        new, old = Path(scratch, "new"), Path(scratch, "old")
        new.mkdir()
        old.mkdir()
        yield new
        names = {path.relative_to(new).as_posix() for path in new.rglob("*") if path.is_file()}
        goes = {path.name for path in folder.iterdir() if path.is_file() and outdated(path.name, names)}
        _replace(folder, new, old, names, goes)


def _replace(folder: Path, new: Path, old: Path, names: set[str], goes: set[str]) -> None:
    for name in sorted(names):
        if (folder / name).is_dir():
            raise FileExistsError(f"{folder / name} is a folder, in the place of a file that is to be saved.")
    # All of the old ones first: should the process be killed here, files are missing, which is seen when they are
    # loaded; old weights beside new ones would not be.
    moves = [(folder / name, old / name) for name in sorted(names | goes) if (folder / name).exists()]
    moves += [(new / name, folder / name) for name in sorted(names)]
    done = []
    try:
        for source, target in moves:
            target.parent.mkdir(parents=True, exist_ok=True)
            source.rename(target)
            done.append((source, target))
    except BaseException:
        for source, target in reversed(done):
            target.rename(source)
        raise
