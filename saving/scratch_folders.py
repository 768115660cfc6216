"""Scratch folders next to the output. If a process is killed, the next one removes its scratch folder.

A process holds a lock in its scratch folder. The kernel releases the lock when the process ends in any way, so there
is no need to compare process ids or times. Some network file systems do not share locks between hosts. The name of a
scratch folder therefore contains a hash of the host, and other hosts leave the folder alone.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows, where a file that another process has open cannot be removed.
    fcntl: Any = None  # type: ignore[no-redef]

_LOCK = "lock"


@contextmanager
def scratch_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Yield a new, private folder and remove it at the end. Also remove the folders of killed processes.

    Args:
        parent: The folder to create it in.
        prefix: The start of its name.

    Raises:
        OSError: If `parent` is not writable.
    """
    prefix = f"{prefix}{_host()}-"
    _remove_abandoned(parent, prefix)
    folder, lock = _make(parent, prefix)
    try:
        yield folder
    finally:
        if fcntl is None:
            lock.close()
        # The lock is released last, so that no other process removes the same files at the same time.
        _remove(folder)
        lock.close()


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Wait until no other process or thread is in such a block with the same folder, if its file system has locks.

    Args:
        folder: The folder. Nothing is written into it.
    """
    with ExitStack() as stack:
        if fcntl is not None:
            # Without locks in the file system, or a folder that can be read, others do not wait.
            with suppress(OSError):
                descriptor = os.open(folder, os.O_RDONLY)
                stack.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def _host() -> str:
    """Return a short hash of this host's name, since the real name should not appear in a folder that may be shared."""
    return blake2b(platform.node().encode(), digest_size=4).hexdigest()


def _make(parent: Path, prefix: str) -> tuple[Path, IO[bytes]]:
    while True:
        try:
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        except OSError as error:
            raise OSError(error.errno, f"Cannot write to this folder: {error.strerror}", str(parent)) from error
        try:
            lock = (folder / _LOCK).open("wb")
        except FileNotFoundError:
            continue
        if fcntl is not None:
            # Without locks in the file system, no other process can lock the file and remove the folder either.
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
        # Another process may have removed the folder as abandoned before it was locked.
        if (folder / _LOCK).exists():
            return folder, lock
        lock.close()


def _remove_abandoned(parent: Path, prefix: str) -> None:
    try:
        names = os.listdir(parent)
    except OSError:
        return
    for name in names:
        # The rest is random and has no hyphen. This excludes other outputs whose name starts with the same prefix.
        if name.startswith(prefix) and "-" not in name[len(prefix) :]:
            _remove_if_abandoned(parent / name)


def _remove(folder: Path) -> None:
    """Remove a scratch folder. The lock goes last, so that the folder is still recognised if this process is killed."""
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
            # The process was killed before it created the lock or after it removed it; or it is about to create the
            # lock, and will then make another folder. A folder that is not empty is not a scratch folder, and is kept.
            folder.rmdir()
            return
        with lock.open("rb+") as file:
            if fcntl is None:
                file.close()
            else:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(folder)
    except OSError:
        return  # In use, or owned by another user.
