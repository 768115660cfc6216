"""Scratch folders next to what is being written. Those of killed processes are removed by the next one.

A process holds a lock in its scratch folder. The kernel releases it when the process ends, however it ends, so neither
process ids nor times have to be compared. Not every network file system shares locks, so the name of a scratch folder
says which host made it, and other hosts leave it alone.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows, which does not let anyone remove a file that another process has open.
    fcntl: Any = None  # type: ignore[no-redef]

_LOCK = "lock"


@contextmanager
def scratch_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Yields a new, private folder and removes it at the end, with those that killed processes left in the same place.

    Args:
        parent: the folder to make it in.
        prefix: the first part of its name.

    Raises:
        OSError: if nothing can be written into `parent`.
    """
    prefix = f"{prefix}{_host()}-"
    _remove_abandoned(parent, prefix)
    folder, lock = _make(parent, prefix)
    try:
        yield folder
    finally:
        if fcntl is None:
            lock.close()
        # The lock is released last: no other process removes the same files at the same time.
        _remove(folder)
        lock.close()


def _host() -> str:
    """A short name for this host. It may become part of a folder that is shared, so it does not tell the real name."""
    return blake2b(platform.node().encode(), digest_size=4).hexdigest()


def _make(parent: Path, prefix: str) -> tuple[Path, IO[bytes]]:
    while True:
        try:
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        except OSError as error:
            raise OSError(error.errno, f"Nothing can be written there: {error.strerror}", str(parent)) from error
        try:
            lock = (folder / _LOCK).open("wb")
        except FileNotFoundError:
            continue
        if fcntl is not None:
            # A file system without locks: nobody else can lock the file either, so nobody removes the folder.
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
        # Another process may have found the folder before it was locked, and taken it for an abandoned one.
        if (folder / _LOCK).exists():
            return folder, lock
        lock.close()


def _remove_abandoned(parent: Path, prefix: str) -> None:
    try:
        names = os.listdir(parent)
    except OSError:
        return
    for name in names:
        # What follows is random, and has no hyphen: the prefix of one output can be the start of the name of another.
        if name.startswith(prefix) and "-" not in name[len(prefix) :]:
            _remove_if_abandoned(parent / name)


def _remove(folder: Path) -> None:
    """Removes a scratch folder, its lock last: a process that is killed meanwhile leaves one that is known as such."""
    with suppress(OSError):
        for path in [path for path in folder.iterdir() if path.name != _LOCK]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        (folder / _LOCK).unlink()
        folder.rmdir()


def _remove_if_abandoned(folder: Path) -> None:
    lock = folder / _LOCK
    try:
        if lock.is_symlink() or not lock.is_file():
            # Its process was killed before it had a lock, or after it had removed that, or is about to make it; in this
            # case it makes another folder. What is not empty is no scratch folder, and stays.
            folder.rmdir()
            return
        with lock.open("rb+") as file:
            if fcntl is None:
                file.close()
            else:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(folder)
    except OSError:
        return  # In use, or of another user.
