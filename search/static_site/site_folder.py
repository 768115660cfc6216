"""The folder of a search page: what it may replace, and how its files are written and named.

Shapes: N vectors, D channels.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from ...saving.staged_files import staged
from ...saving.whole_folders import check_writable

MANIFEST = "site.json"
# One ending for all, since some servers treat files that end in .gz as pages to unpack.
SUFFIX = ".bin"


class SiteFiles:
    """The data of a page that is being written, in files whose names say what is in them.

    Args:
        folder: The folder to write into.

    Attributes:
        names: The names of the files.
        runs_wasm: Whether the page runs WebAssembly, which its policy must allow.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.names: list[str] = []
        self.runs_wasm = False

    def copy_script(self, source: Path, name: str) -> None:
        """Copy a library that the page imports.

        Args:
            source: Its file.
            name: The name of the copy.
        """
        shutil.copyfile(source, self._folder / name)
        self.names.append(name)

    def add(self, kind: str, content: bytes) -> str:
        """Write a file, and return its name.

        Args:
            kind: The first part of the name.
            content: The content.
        """
        name = f"{kind}-{blake2b(content, digest_size=8).hexdigest()}{SUFFIX}"
        (self._folder / name).write_bytes(content)
        self.names.append(name)
        return name

    def add_packed(self, kind: str, content: bytes) -> str:
        """Compress a file, write it, and return its name. See `add`."""
        return self.add(kind, gzip.compress(content, mtime=0))

    def add_json(self, kind: str, value: Any) -> str:
        """Write a value as compressed JSON, and return the name of the file. See `add`."""
        return self.add_packed(kind, json.dumps(value, ensure_ascii=False, default=str).encode())


def check_site_folder(folder: Path, replace: bool) -> None:
    """Check that a page may be written into a folder.

    Args:
        folder: The folder.
        replace: Whether the user allows replacing an earlier page.

    Raises:
        FileExistsError: If the folder has an earlier page that must not be replaced, or anything else.
        OSError: If it cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; choose another --static_site.")
    check_writable(folder / MANIFEST)
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if _files_of_page(folder) is None:
        raise FileExistsError(f"{folder} has files, but no search page; choose another --static_site.")
    if not replace:
        raise FileExistsError(
            f"{folder} has a search page; choose another --static_site, or replace the page with --overwrite."
        )


def _files_of_page(folder: Path) -> list[str] | None:
    """Return the names of the data of a page, or None if the folder has no page."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return [*manifest["files"]] if "fusion" in manifest else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


@contextmanager
def site_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder to write a page into. Its files move into `folder` at the end, unless an exception occurs.

    They replace those of an earlier page. All other files are kept.

    Args:
        folder: The folder of the page.
    """
    is_new = not folder.exists()
    outdated = _files_of_page(folder) or []
    try:
        with staged(folder, lambda name, new: name in outdated and name not in new) as written:
            yield written
    except BaseException:
        if is_new:
            with suppress(OSError):  # Others may have written into it.
                folder.rmdir()
        raise


def in_eight_bits(vectors: Iterable[np.ndarray[Any, Any]]) -> bytes:
    """Return vectors in eight bits, as the page reads them: the scales in float32, and then integers from -127 to 127.

    Args:
        vectors: (N, D) in parts.
    """
    scales, numbers = [], []
    for part in vectors:
        scale = np.abs(part).max(1, keepdims=True).astype("<f4") / 127
        scales.append(scale.tobytes())
        numbers.append(np.rint(part / np.where(scale, scale, 1)).astype(np.int8).tobytes())
    return b"".join([*scales, *numbers])
